// Dark, light, or as the system says.

import { signal } from "./vendor/signals.js";

const KEY = "hubbub.theme";

export const theme = signal(localStorage.getItem(KEY) ?? "system"); // system | light | dark

export function applyTheme() {
  const root = document.documentElement;
  if (theme.value === "system") delete root.dataset.theme;
  else root.dataset.theme = theme.value;
}

export function choose(value) {
  theme.value = value;
  if (value === "system") localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, value);
  applyTheme();
}

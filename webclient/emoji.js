// Emoji: a short list by group, found by word, and the :shortcodes: that people type.

const GROUPS = {
  "Smileys": "😀 grinning 😄 smile 😂 joy 🙂 slight_smile 😉 wink 😊 blush 😍 heart_eyes 😘 kiss 😎 cool 🤔 thinking 😐 neutral 🙄 eye_roll 😴 sleeping 😅 sweat_smile 😇 innocent 🥳 party 😢 cry 😭 sob 😡 angry 😱 scream 🤯 mind_blown 😬 grimace 🤗 hug 🤫 shush 🤐 zipper 🤢 sick 🥶 cold 🥵 hot 🤖 robot 👻 ghost 💀 skull",
  "People": "👍 thumbsup 👎 thumbsdown 👌 ok_hand ✌️ victory 🤞 fingers_crossed 👏 clap 🙌 raised_hands 🙏 pray 🤝 handshake 💪 muscle 👋 wave ✋ hand 👉 point_right 👀 eyes 🧠 brain 🤷 shrug 🤦 facepalm 🙋 raising_hand 💁 info 🏃 run 💃 dance",
  "Nature": "🐶 dog 🐱 cat 🐭 mouse 🦊 fox 🐻 bear 🐼 panda 🐧 penguin 🐦 bird 🐝 bee 🐛 bug 🦋 butterfly 🐢 turtle 🐍 snake 🐙 octopus 🐳 whale 🌱 seedling 🌳 tree 🌻 sunflower 🌹 rose 🍀 clover 🌍 earth 🌙 moon ☀️ sun ⭐ star ⚡ zap 🔥 fire 🌈 rainbow ❄️ snow 🌊 wave_water ☔ rain",
  "Food": "🍎 apple 🍌 banana 🍓 strawberry 🍋 lemon 🥑 avocado 🌶️ pepper 🍞 bread 🧀 cheese 🍕 pizza 🍔 burger 🍟 fries 🌮 taco 🍜 noodles 🍣 sushi 🍪 cookie 🎂 cake 🍫 chocolate 🍿 popcorn ☕ coffee 🍵 tea 🍺 beer 🍷 wine 🥂 cheers",
  "Things": "🎉 tada 🎁 gift 🏆 trophy 🎯 target 🎮 game 🎧 headphones 🎸 guitar 📷 camera 💻 computer 📱 phone 💡 bulb 🔧 wrench 🔨 hammer 🔒 lock 🔑 key 📌 pin 📎 paperclip ✏️ pencil 📝 memo 📅 calendar 📈 chart 📦 package ✉️ mail 🔔 bell ⏰ alarm ⏳ hourglass 🚀 rocket ✈️ plane 🚗 car 🚲 bike 🏠 home 🏖️ beach",
  "Signs": "❤️ heart 💔 broken_heart 💯 100 ✅ check ❌ x ❓ question ❗ exclamation ⚠️ warning ➕ plus ➖ minus ♻️ recycle 🆗 ok 🆕 new 🔴 red 🟢 green 🔵 blue 💬 speech 💤 zzz ✨ sparkles",
};

/** group -> [[emoji, word]] */
export const groups = Object.entries(GROUPS).map(([name, text]) => {
  const parts = text.split(" ");
  return [name, parts.flatMap((part, i) => (i % 2 ? [] : [[part, parts[i + 1]]]))];
});

const byWord = new Map(groups.flatMap(([, entries]) => entries.map(([emoji, word]) => [word, emoji])));

/** Those whose word contains `query`, in their groups. */
export function findEmoji(query) {
  const wanted = query.trim().toLowerCase().replaceAll(" ", "_");
  return groups
    .map(([name, entries]) => [name, entries.filter(([, word]) => word.includes(wanted))])
    .filter(([, entries]) => entries.length);
}

/** The first words that begin with `start`: `[[emoji, word]]`. */
export function completions(start, most = 6) {
  return [...byWord].filter(([word]) => word.startsWith(start)).slice(0, most).map(([word, emoji]) => [emoji, word]);
}

/** `:tada:` becomes its emoji, outside of code. */
export function withShortcodes(text) {
  if (!text.includes(":") || text.includes("`")) return text;
  return text.replace(/:([a-z0-9_]{1,20}):/g, (all, word) => byWord.get(word) ?? all);
}

const JUMBO = /^(?:\p{Extended_Pictographic}(?:\uFE0F|\u200D\p{Extended_Pictographic})*\s*){1,3}$/u;

/** Whether it is nothing but a few emoji, which are shown large. */
export function isJumbo(text) {
  return text.length < 30 && JUMBO.test(text);
}

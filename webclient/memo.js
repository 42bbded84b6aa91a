// A component that is drawn again only when its properties differ (preact/compat has one; it is larger than the page).

import { Component, h } from "./vendor/preact.js";

/** `same(before, after)`: whether nothing that shows has changed. */
export function memo(view, same) {
  return class extends Component {
    shouldComponentUpdate(next) {
      return !same(this.props, next);
    }

    render(props) {
      return h(view, props);
    }
  };
}

// Several windows of one user in one browser tell each other what was read, and that somebody signed out.

export class Tabs {
  /** `read(conversation, seq)` and `left()` hear of the other windows. */
  constructor(username, { read, left }) {
    this.channel = globalThis.BroadcastChannel ? new BroadcastChannel(`hubbub:${username}`) : null;
    if (!this.channel) return;
    this.channel.onmessage = ({ data }) => {
      if (data.type === "read") read(data.conversation, data.seq);
      else if (data.type === "left") left();
    };
  }

  read(conversation, seq) {
    this.channel?.postMessage({ type: "read", conversation, seq });
  }

  leave() {
    this.channel?.postMessage({ type: "left" });
  }

  close() {
    this.channel?.close();
  }
}

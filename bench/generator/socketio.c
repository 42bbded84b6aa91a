/* Socket.IO, protocol 5 over Engine.IO 4, WebSocket only: "42" and an acknowledgement's number before an event. */
#include "generator.h"

#include <stdio.h>
#include <string.h>

static void target(struct client *c, char *to, size_t size)
{
    snprintf(to, size, "/socket.io/?EIO=4&transport=websocket&username=bench-%d HTTP/1.1", c->index);
}

static void upgraded(struct client *c)
{
    (void)c; /* the server speaks first */
}

static void compose(struct client *c, const char *key, int recipient)
{
    static char text[1 << 16];
    uint64_t count = json_number(key + KEY_LENGTH - 10, key + KEY_LENGTH);
    char *at = text + sprintf(text, "42%llu[\"send\",{\"content\":\"", (unsigned long long)count);
    at = mempcpy(at, key, KEY_LENGTH);
    memset(at, 'x', (size_t)options.content_bytes - KEY_LENGTH);
    at += options.content_bytes - KEY_LENGTH;
    if (recipient == IN_LOBBY)
        at = stpcpy(at, "\"}]");
    else
        at += sprintf(at, "\",\"recipient\":\"bench-%d\"}]", recipient);
    queue_text(c, text, (size_t)(at - text));
}

static void text(struct client *c, const char *text, const char *end)
{
    if (starts_with(text, end, "42"))
        on_message(c, json_value(text, end, "\"content\":\""), end, IN_LOBBY, 0);
    else if (starts_with(text, end, "43"))
        on_ack_count(c, json_number(text + 2, end));
    else if (starts_with(text, end, "0"))
        queue_text(c, "40", 2);
    else if (starts_with(text, end, "40"))
        on_welcome(c);
    else if (starts_with(text, end, "2"))
        queue_text(c, "3", 1);
    else
        problem(1, "unexpected packet %.*s", (int)(end - text < 20 ? end - text : 20), text);
}

const struct protocol socketio = {"socketio", false, target, upgraded, on_synced, text, compose, NULL};

/* Hubbub's own protocol, docs/protocol.md. */
#include "generator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void target(struct client *c, char *to, size_t size)
{
    snprintf(to, size, "/ws?username=bench-%d HTTP/1.1\r\nSec-WebSocket-Protocol: hubbub.v1", c->index);
}

static void upgraded(struct client *c)
{
    (void)c; /* the server speaks first */
}

static void sync(struct client *c)
{
    static const char command[] = "{\"type\":\"sync\"}";
    queue_text(c, command, sizeof command - 1);
}

static void compose(struct client *c, const char *key, int recipient)
{
    static char text[1 << 16];
    char *at = stpcpy(text, "{\"type\":\"send\",\"id\":\"");
    at = mempcpy(at, key, KEY_LENGTH);
    at = stpcpy(at, "\",\"content\":\"");
    at = mempcpy(at, key, KEY_LENGTH);
    memset(at, 'x', (size_t)options.content_bytes - KEY_LENGTH);
    at += options.content_bytes - KEY_LENGTH;
    if (recipient == IN_LOBBY)
        at = stpcpy(at, "\"}");
    else
        at += sprintf(at, "\",\"recipient\":\"bench-%d\"}", recipient);
    queue_text(c, text, (size_t)(at - text));
}

static void received(struct client *c, int peer, uint64_t seq)
{
    char text[128], us[16], them[16], *first = us, *second = them;
    int length;
    if (peer == IN_LOBBY) {
        length = snprintf(text, sizeof text, "{\"type\":\"received\",\"conversation\":\"lobby\",\"seq\":%llu}",
                          (unsigned long long)seq);
    } else {
        snprintf(us, sizeof us, "bench-%d", c->index);
        snprintf(them, sizeof them, "bench-%d", peer);
        if (strcmp(us, them) > 0)
            first = them, second = us;
        length = snprintf(text, sizeof text, "{\"type\":\"received\",\"conversation\":\"direct:%s:%s\",\"seq\":%llu}", first,
                          second, (unsigned long long)seq);
    }
    queue_text(c, text, (size_t)length);
}

/* The other side of a conversation, from its name: IN_LOBBY, a client's index, or UNKNOWN. */
static int other_side(const struct client *c, const char *name, const char *end)
{
    if (!name)
        return UNKNOWN;
    if (starts_with(name, end, "lobby\""))
        return IN_LOBBY;
    if (!starts_with(name, end, "direct:"))
        return UNKNOWN;
    name += strlen("direct:");
    int first = client_number(&name, end);
    if (first == UNKNOWN || name == end || *name++ != ':')
        return UNKNOWN;
    int second = client_number(&name, end);
    return second == c->index ? first : first == c->index ? second : UNKNOWN;
}

static void positions(struct client *c, const char *text, const char *end)
{
    const char *name = text;
    while ((name = json_value(name, end, "\"conversation\":\""))) {
        const char *open = name, *close = memchr(name, '}', (size_t)(end - name));
        while (open > text && *open != '{')
            open--;
        if (!close)
            return;
        const char *to = json_value(open, close, "\"to\":");
        if (to)
            on_position(c, other_side(c, name, close), json_number(to, close));
    }
}

static void word(const char *text, const char *end, const char *field, char *to, size_t size)
{
    const char *from = json_value(text, end, field);
    size_t length = 0;
    while (from && from + length < end && length < size - 1 && !strchr("\",}", from[length]))
        length++;
    memcpy(to, from ? from : "", length);
    to[length] = 0;
}

static void text(struct client *c, const char *text, const char *end)
{
    char code[40];
    const char *type = starts_with(text, end, "{\"type\":\"") ? text + 9 : json_value(text, end, "\"type\":\"");
    if (!type)
        return;
    if (starts_with(type, end, "message\"") || starts_with(type, end, "ack\"")) {
        /* Next to each other as a rule; else looked for from the beginning. */
        const char *conversation = json_value(text, end, "\"conversation\":\"");
        const char *seq = conversation ? json_value(conversation, end, "\"seq\":") : NULL;
        if (!seq && !(seq = json_value(text, end, "\"seq\":")))
            return;
        int peer = other_side(c, conversation, end);
        uint64_t number = json_number(seq, end);
        if (*type == 'm')
            on_message(c, json_value(text, end, "\"content\":\""), end, peer, number);
        else
            on_ack(c, json_value(text, end, "\"id\":\""), end, peer, number);
    } else if (starts_with(type, end, "welcome\"")) {
        on_welcome(c);
    } else if (starts_with(type, end, "synced\"")) {
        positions(c, text, end);
        on_synced(c);
    } else if (starts_with(type, end, "error\"")) {
        word(text, end, "\"code\":\"", code, sizeof code);
        problem(1, "error %s", code);
        on_refusal(c, json_value(text, end, "\"id\":\""), end);
    } else if (starts_with(type, end, "goodbye\"")) {
        word(text, end, "\"code\":", code, sizeof code);
        problem(1, "goodbye %s", code);
    } /* receipts, presence and what later versions add */
}

const struct protocol hubbub = {"hubbub", true, target, upgraded, sync, text, compose, received};

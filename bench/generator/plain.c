/* Hubbub's send, ack and message without what a server that keeps nothing cannot say: for peers without a protocol. */
#include "generator.h"

#include <stdio.h>

static void target(struct client *c, char *to, size_t size)
{
    snprintf(to, size, "/ws?username=bench-%d HTTP/1.1", c->index);
}

static void upgraded(struct client *c)
{
    on_welcome(c);
}

static void compose(struct client *c, const char *key, int recipient)
{
    hubbub.compose(c, key, recipient);
}

static void text(struct client *c, const char *text, const char *end)
{
    const char *type = json_value(text, end, "\"type\":");
    if (!type)
        return;
    while (type < end && (*type == ' ' || *type == '"'))
        type++;
    if (starts_with(type, end, "ack\""))
        on_ack(c, json_value(text, end, "\"id\":\""), end, IN_LOBBY, 0);
    else if (starts_with(type, end, "message\""))
        on_message(c, json_value(text, end, "\"content\":\""), end, IN_LOBBY, 0);
}

const struct protocol plain = {"plain", false, target, upgraded, on_synced, text, compose, NULL};

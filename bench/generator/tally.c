/* What was sent, acknowledged and delivered in a run, and everything that was wrong with it.
 *
 * Every client sees each of its conversations' seqs without a hole, its own messages as acknowledgements. So a
 * repeated, missing or misplaced delivery shows at once, or in `settle`. Where the server does not number (and promises
 * no order), arrivals from each sender are counted, and a count below the one before is a changed order. */
#include "generator.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KINDS = 64 };


struct tally tally;
static uint64_t lobby_top; /* highest acknowledged seq */
static struct kind {
    char name[96];
    uint64_t count;
} kinds[KINDS];
static double retry_at; /* when what is owed is sent; 0 when nothing is */

/* --- places ------------------------------------------------------------------------------------------------ */

/* Where a client keeps a conversation. The neighbour's is always at 1, so that those in pairs keep small tables. */
static uint32_t place_of(const struct client *c, int peer)
{
    if (!options.protocol->numbered && options.partners == LOBBY)
        return (uint32_t)peer; /* of a sender; those are the first few clients */
    return peer == IN_LOBBY ? 0 : (uint32_t)(c->index ^ peer);
}

static uint64_t value(const struct positions *all, uint32_t place)
{
    return place < all->size ? all->values[place] : 0;
}

static void put(struct positions *all, uint32_t place, uint64_t number)
{
    if (place >= all->size) {
        uint32_t size = 2 * (place + 1);
        all->values = grown(all->values, size * sizeof *all->values);
        memset(all->values + all->size, 0, (size - all->size) * sizeof *all->values);
        all->size = size;
    }
    all->values[place] = number;
}

/* Where the highest acknowledged seq of a direct conversation stands: with the client of the lower index. */
static struct positions *tops(struct client *c, int peer)
{
    return peer > c->index ? &c->tops : &clients[peer].tops;
}

/* Move the position as a client does; whether the number was new. */
static bool advance(struct client *c, int peer, uint64_t number)
{
    uint32_t place = place_of(c, peer);
    uint64_t position = value(&c->positions, place);
    if (number <= position) {
        problem(1, "delivered twice or out of order");
        return false;
    }
    if (number > position + 1)
        problem(number - position - 1, "missing");
    put(&c->positions, place, number);
    return true;
}

static bool arrive(struct client *c, int sender, uint64_t count)
{
    uint32_t place = place_of(c, sender);
    if (count == value(&c->positions, place)) {
        problem(1, "delivered twice");
        return false;
    }
    if (count < value(&c->positions, place))
        problem(1, "changed order");
    else
        put(&c->positions, place, count);
    put(&c->arrived, place, value(&c->arrived, place) + 1);
    return true;
}

/* --- sending ----------------------------------------------------------------------------------------------- */

static void digits(char *to, int count, uint64_t number)
{
    for (; count > 0; number /= 10)
        to[--count] = (char)('0' + number % 10);
}

void send_next(struct client *c)
{
    char key[KEY_LENGTH];
    int recipient = IN_LOBBY;
    if (options.partners == PAIRS) {
        recipient = c->index ^ 1;
    } else if (options.partners == ALL) {
        /* In turn rather than by dice: every conversation is used equally, and each client starts elsewhere. */
        recipient = (c->index + 1 + (int)c->turn) % options.clients;
        c->turn = (c->turn + 1) % (uint32_t)(options.clients - 1);
    }
    if (++c->sends >= c->sends_size) {
        c->sends_size = c->sends_size ? 2 * c->sends_size : 256;
        c->sent = grown(c->sent, c->sends_size * sizeof *c->sent);
    }
    c->sent[c->sends] = (struct sent){.at = now};
    c->unanswered++;
    memcpy(key, options.run, RUN_LENGTH);
    digits(key + RUN_LENGTH, 6, (uint64_t)c->index);
    digits(key + RUN_LENGTH + 6, 10, c->sends);
    options.protocol->compose(c, key, recipient);
}

void send_owed(void)
{
    if (!retry_at || now < retry_at)
        return;
    retry_at = 0;
    for (int i = 0; i < options.clients; i++) {
        struct client *c = &clients[i];
        for (; c->owed && tally.sending && c->state == LIVE; c->owed--)
            send_next(c);
        if (c->state == LIVE)
            connection_flush(c);
    }
}

/* --- what comes in ----------------------------------------------------------------------------------------- */

void on_welcome(struct client *c)
{
    c->welcomed = now;
    c->state = SYNCING;
    opened(c);
}

void on_synced(struct client *c)
{
    c->synced = now;
    c->state = LIVE;
    opened(c);
}

void on_position(struct client *c, int peer, uint64_t seq)
{
    if (peer != UNKNOWN)
        put(&c->positions, place_of(c, peer), seq);
}

/* Our send with this key: who sent it, its count, or NULL when nobody did. */
static struct sent *find_sent(const char *key, const char *end, int *sender, uint64_t *count)
{
    if (!key || end - key < KEY_LENGTH || memcmp(key, options.run, RUN_LENGTH) != 0)
        return NULL;
    *sender = (int)json_number(key + RUN_LENGTH, key + RUN_LENGTH + 6);
    *count = json_number(key + RUN_LENGTH + 6, key + KEY_LENGTH);
    if (*sender >= options.clients || !*count || *count > clients[*sender].sends)
        return NULL;
    return &clients[*sender].sent[*count];
}

void on_ack_count(struct client *c, uint64_t count)
{
    if (!count || count > c->sends || c->sent[count].acked) {
        problem(1, "acknowledged twice or never sent");
        return;
    }
    c->sent[count].acked = true;
    c->unanswered--;
    tally.acked++;
    if (tally.recording)
        keep(&tally.ack, now - c->sent[count].at);
    if (tally.sending)
        send_next(c);
}

void on_ack(struct client *c, const char *key, const char *end, int peer, uint64_t seq)
{
    int sender = 0;
    uint64_t count = 0;
    if (!find_sent(key, end, &sender, &count) || sender != c->index)
        count = 0;
    else if (options.protocol->numbered && peer != UNKNOWN && !c->sent[count].acked) {
        if (peer == IN_LOBBY)
            lobby_top = seq > lobby_top ? seq : lobby_top;
        else if (seq > value(tops(c, peer), place_of(c, peer)))
            put(tops(c, peer), place_of(c, peer), seq);
        advance(c, peer, seq);
    }
    on_ack_count(c, count);
}

void on_message(struct client *c, const char *key, const char *end, int peer, uint64_t seq)
{
    int sender = 0;
    uint64_t count = 0;
    if (c->state != LIVE)
        return; /* the past, before `synced`; its positions follow */
    struct sent *sent = find_sent(key, end, &sender, &count);
    if (options.protocol->numbered && peer != UNKNOWN && !advance(c, peer, seq))
        return;
    if (!sent || peer == UNKNOWN) {
        problem(1, "delivered but not sent by us");
        return;
    }
    if (!options.protocol->numbered && !arrive(c, sender, count))
        return;
    if (options.partners != LOBBY) {
        if (sent->delivered)
            problem(1, "delivered twice or out of order");
        sent->delivered = true; /* each has one recipient */
    }
    tally.delivered++;
    if (c->timed && tally.recording)
        keep(&tally.delivery, now - sent->at);
}

void on_refusal(struct client *c, const char *key, const char *end)
{
    int sender = 0;
    uint64_t count = 0;
    struct sent *sent = find_sent(key, end, &sender, &count);
    if (sent && sender == c->index && !sent->acked) {
        sent->acked = true;
        c->unanswered--;
    }
    if (tally.sending && c->writes) {
        /* Keeps the number in flight up without hammering a server that has just said no. */
        c->owed++;
        if (!retry_at)
            retry_at = now + 0.1;
    }
}

static void confirm(struct client *c, int peer)
{
    uint32_t place = place_of(c, peer);
    uint64_t seq = value(&c->positions, place);
    if (seq > value(&c->told, place)) {
        options.protocol->received(c, peer, seq);
        put(&c->told, place, seq);
    }
}

void confirm_received(void)
{
    for (int i = 0; i < options.clients; i++) {
        struct client *c = &clients[i];
        if (c->state != LIVE)
            continue;
        if (options.partners == LOBBY)
            confirm(c, IN_LOBBY);
        else if (options.partners == PAIRS)
            confirm(c, i ^ 1);
        else
            for (int peer = 0; options.partners == ALL && peer < options.clients; peer++)
                if (peer != i)
                    confirm(c, peer);
        connection_flush(c);
    }
}

/* --- the end ------------------------------------------------------------------------------------------------ */

static uint64_t behind_by(struct client *c, int peer)
{
    uint32_t place = place_of(c, peer);
    uint64_t acknowledged, here = value(options.protocol->numbered ? &c->positions : &c->arrived, place);
    if (options.protocol->numbered)
        acknowledged = peer == IN_LOBBY ? lobby_top : value(tops(c, peer), place);
    else
        acknowledged = peer < options.clients ? clients[peer].sends - clients[peer].unanswered : 0;
    return acknowledged > here ? acknowledged - here : 0;
}

/* How many acknowledged messages of its conversations have not reached this client. */
static uint64_t behind(struct client *c)
{
    uint64_t missing = 0;
    if (options.partners == PAIRS)
        return behind_by(c, c->index ^ 1);
    if (options.partners == LOBBY && options.protocol->numbered)
        return behind_by(c, IN_LOBBY);
    int others = options.partners == ALL ? options.clients : options.partners == LOBBY ? options.senders : 0;
    for (int peer = 0; peer < others; peer++)
        if (peer != c->index)
            missing += behind_by(c, peer);
    return missing;
}

bool settled(void)
{
    for (int i = 0; i < options.clients; i++)
        if (clients[i].state != UNOPENED && (clients[i].unanswered || behind(&clients[i])))
            return false;
    return true;
}

void settle(void)
{
    for (int i = 0; i < options.clients; i++)
        if (clients[i].state != UNOPENED) {
            problem(clients[i].unanswered, "unacknowledged");
            problem(behind(&clients[i]), "missing");
        }
}

void problem(uint64_t count, const char *format, ...)
{
    char name[sizeof kinds[0].name];
    va_list arguments;
    if (!count)
        return;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    for (char *at = name; *at; at++)
        if (*at < ' ' || *at > '~' || *at == '"' || *at == '\\')
            *at = '?'; /* a name may hold what the server said, and is printed as JSON */
    int i = 0;
    while (i < KINDS - 1 && kinds[i].count && strcmp(kinds[i].name, name) != 0)
        i++;
    memcpy(kinds[i].name, name, sizeof name);
    kinds[i].count += count;
}

void print_problems(void)
{
    printf("{");
    for (int i = 0; i < KINDS && kinds[i].count; i++)
        printf("%s\"%s\":%llu", i ? "," : "", kinds[i].name, (unsigned long long)kinds[i].count);
    printf("}");
}

void keep(struct latencies *all, double seconds)
{
    if (all->used == all->size) {
        all->size = all->size ? 2 * all->size : 1 << 16;
        all->seconds = grown(all->seconds, all->size * sizeof *all->seconds);
    }
    all->seconds[all->used++] = (float)seconds;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Milliseconds at nearest ranks, or null without samples. */
void print_latency(struct latencies *all)
{
    static const struct {
        const char *name;
        size_t per_mille;
    } ranks[] = {{"p50", 500}, {"p90", 900}, {"p99", 990}, {"p999", 999}, {"max", 1000}};
    if (!all->used) {
        printf("null");
        return;
    }
    qsort(all->seconds, all->used, sizeof *all->seconds, ascending);
    printf("{\"samples\":%zu", all->used);
    for (size_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++) {
        size_t rank = (all->used * ranks[i].per_mille + 999) / 1000;
        printf(",\"%s\":%.3f", ranks[i].name, 1000.0 * (double)all->seconds[rank ? rank - 1 : 0]);
    }
    printf("}");
}

/* The load generator: many WebSocket clients in one thread, told what to do by bench/generator/__init__.py.
 *
 * It shares the machine with the server, so it is written for few instructions and few system calls a message:
 * one read for all that a socket has, one write for all that the answers call for, no allocation on the way.
 */
#ifndef GENERATOR_H
#define GENERATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A message's key stands in its content too: the run (8), its sender (6 digits), the sender's count (10 digits). */
enum { RUN_LENGTH = 8, KEY_LENGTH = 24 };

/* Whom clients write to: their neighbour, everybody else in turn, everybody at once, nobody. */
enum partners { PAIRS, ALL, LOBBY, NOBODY };

enum state { UNOPENED, CONNECTING, UPGRADING, JOINING, SYNCING, LIVE, CLOSED };

struct bytes {
    char *data;
    size_t used, size;
};

/* Highest number seen, by place; grows on demand, and what it has never seen is 0. */
struct positions {
    uint64_t *values;
    uint32_t size;
};

struct sent {
    double at; /* seconds, monotonic */
    bool acked, delivered;
};

struct client {
    int index, fd;
    enum state state;
    bool writes, timed, polled_for_writing;
    double began, welcomed, synced; /* when the connection was begun, `welcome` and `synced` came */
    struct bytes in;                /* the beginning of a frame whose rest has not come yet */
    struct bytes out;               /* what the socket has not taken yet */
    size_t written;                 /* how much of `out` it has taken */
    struct sent *sent;              /* by count, from 1 */
    uint32_t sends, sends_size, unanswered, owed, turn;
    struct positions positions; /* see place_of; of conversations, or of senders where nothing is numbered */
    struct positions arrived;   /* how many messages, by sender, where nothing is numbered */
    struct positions tops;      /* highest acknowledged seq of the conversations with clients of higher index */
    struct positions told;      /* what `received` has said */
};

/* One way to speak: what is sent, and what an incoming text means. `text` calls the functions of tally.c. */
struct protocol {
    const char *name;
    bool numbered;                                   /* whether conversations have gapless seqs */
    void (*target)(struct client *, char *, size_t); /* the request's target and further headers, see connection.c */
    void (*upgraded)(struct client *);               /* the WebSocket is open */
    void (*sync)(struct client *);                   /* ask for what is missed; on_synced follows */
    void (*text)(struct client *, const char *, const char *end);
    void (*compose)(struct client *, const char *key, int recipient); /* queue one message */
    void (*received)(struct client *, int peer, uint64_t seq); /* confirm; NULL where there is no such thing */
};

extern const struct protocol hubbub, plain, socketio;

/* --- options and state, main.c -------------------------------------------------------------------------- */

struct options {
    const struct protocol *protocol;
    const char *host, *run;
    int port, clients, senders, in_flight, content_bytes, timed_step, received_ms;
    enum partners partners;
};

extern struct options options;
extern struct client *clients; /* options.clients of them */
extern double now;             /* seconds, monotonic; taken anew for each socket that has something to say */
extern int poller;

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void *grown(void *array, size_t bytes);
void opened(struct client *);

/* --- sockets and frames, connection.c -------------------------------------------------------------------- */

void connection_open(struct client *);
void connection_event(struct client *, uint32_t events);
void connection_flush(struct client *);
void connection_close(struct client *);
void queue_text(struct client *, const char *text, size_t length);

/* --- what was sent and seen, and what is wrong with it, tally.c -------------------------------------------- */

struct latencies {
    float *seconds;
    size_t used, size;
};

struct tally {
    bool sending, recording;
    uint64_t acked, delivered;
    struct latencies ack, delivery;
};

extern struct tally tally;

void send_next(struct client *);
void send_owed(void);
void on_welcome(struct client *);
void on_synced(struct client *);
void on_position(struct client *, int peer, uint64_t seq);
void on_ack(struct client *, const char *key, const char *end, int peer, uint64_t seq);
void on_ack_count(struct client *, uint64_t count);
void on_message(struct client *, const char *key, const char *end, int peer, uint64_t seq);
void on_refusal(struct client *, const char *key, const char *end);
void confirm_received(void);
bool settled(void);
void settle(void);
void problem(uint64_t count, const char *format, ...) __attribute__((format(printf, 2, 3)));
void print_problems(void);
void keep(struct latencies *, double seconds);
void print_latency(struct latencies *);

/* Peers, where a protocol speaks of a conversation: the index of the other client, or one of these. */
enum { IN_LOBBY = -1, UNKNOWN = -2 };

/* --- reading JSON without a decoder, json.c ----------------------------------------------------------------- */

/* Where the value of a field begins (behind the quote of a string), or NULL. `field` is written as it stands in the
 * text, quotes and colon included: a quote inside a string is escaped, so it cannot be mistaken for one. */
const char *json_value(const char *text, const char *end, const char *field);
uint64_t json_number(const char *text, const char *end);
bool starts_with(const char *text, const char *end, const char *prefix);
/* The index in a name of ours (bench-7), or UNKNOWN; moves *text behind it. */
int client_number(const char **text, const char *end);

#endif

/* Reads commands from standard input, answers each with a line of JSON on standard output, and ends with the former.
 *
 *   open FIRST COUNT CONCURRENCY GOAL   connect these clients up to `welcome` or `synced`
 *   start, record, stop                 begin to send; begin to measure; end both
 *   count                               what was acknowledged and delivered so far
 *   drain SECONDS                       wait until all has come that must come
 *   report                              what was wrong, and the latencies measured
 *   close                               leave
 */
#include "generator.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct options options = {.protocol = &hubbub, .host = "127.0.0.1", .run = "00000000", .port = 8000, .clients = 2,
                          .in_flight = 1, .content_bytes = 100, .timed_step = 1, .partners = PAIRS};
struct client *clients;
double now;
int poller;

static const double OPEN_SECONDS = 60.0; /* a storm of connections may queue for long without being an error */

/* The command that is being carried out. */
static struct {
    int next, end, pending; /* clients still to connect, and on the way */
    bool sync;
    double began, progress; /* when it began, and when the last client was done */
    struct latencies welcome, synced;
} opening;
static double drain_until, confirm_at;

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("generator: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

void *grown(void *array, size_t bytes)
{
    void *larger = realloc(array, bytes);
    if (!larger)
        die("out of memory");
    return larger;
}

static double clock_seconds(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static void answer_counts(void)
{
    printf("{\"acked\":%llu,\"delivered\":%llu,\"at\":%.6f,\"cpu\":%.6f}\n", (unsigned long long)tally.acked,
           (unsigned long long)tally.delivered, clock_seconds(), cpu_seconds());
}

static void open_next(void)
{
    struct client *c = &clients[opening.next++];
    opening.pending++;
    c->began = now;
    connection_open(c);
}

/* Called for each client at `welcome` and at `synced`. */
void opened(struct client *c)
{
    if (opening.sync && c->state != LIVE) {
        options.protocol->sync(c);
        return;
    }
    opening.progress = now;
    keep(&opening.welcome, c->welcomed - c->began);
    keep(&opening.synced, now - c->began);
    opening.pending--;
    if (opening.next < opening.end)
        open_next();
    else if (!opening.pending) {
        printf("{\"seconds\":%.6f,\"welcome\":", clock_seconds() - opening.began);
        print_latency(&opening.welcome);
        printf(",\"synced\":");
        print_latency(&opening.synced);
        printf("}\n");
        opening.end = 0;
    }
}

static void begin_opening(int first, int count, int concurrency, bool sync)
{
    if (first < 0 || count < 1 || first + count > options.clients)
        die("no clients %d to %d", first, first + count);
    opening.next = first, opening.end = first + count, opening.sync = sync;
    opening.began = opening.progress = now, opening.welcome.used = opening.synced.used = 0;
    while (opening.next < opening.end && opening.pending < concurrency)
        open_next();
}

static void start(void)
{
    tally.sending = true;
    /* In turns: each client's first, then each client's second send. */
    for (int round = 0; round < options.in_flight; round++)
        for (int i = 0; i < options.clients; i++)
            if (clients[i].writes && clients[i].state == LIVE) {
                send_next(&clients[i]);
                connection_flush(&clients[i]);
            }
}

static void command(const char *line)
{
    int first, count, concurrency;
    char goal[16];
    double seconds;
    if (sscanf(line, "open %d %d %d %15s", &first, &count, &concurrency, goal) == 4) {
        begin_opening(first, count, concurrency, strcmp(goal, "synced") == 0);
    } else if (strcmp(line, "start") == 0) {
        start();
        answer_counts();
    } else if (strcmp(line, "count") == 0) {
        answer_counts();
    } else if (strcmp(line, "record") == 0) {
        tally.recording = true;
        answer_counts();
    } else if (strcmp(line, "stop") == 0) {
        tally.recording = tally.sending = false;
        answer_counts();
    } else if (sscanf(line, "drain %lf", &seconds) == 1) {
        drain_until = now + seconds;
    } else if (strcmp(line, "report") == 0) {
        settle();
        printf("{\"problems\":");
        print_problems();
        printf(",\"ack\":");
        print_latency(&tally.ack);
        printf(",\"delivery\":");
        print_latency(&tally.delivery);
        printf("}\n");
    } else if (strcmp(line, "close") == 0) {
        for (int i = 0; i < options.clients; i++)
            connection_close(&clients[i]);
        answer_counts();
    } else {
        die("no such command: %s", line);
    }
}

static void read_commands(void)
{
    static char line[256];
    static size_t used;
    ssize_t got = read(STDIN_FILENO, line + used, sizeof line - used - 1);
    if (got == 0)
        exit(0);
    if (got < 0)
        return;
    used += (size_t)got;
    line[used] = 0;
    char *from = line, *newline;
    while ((newline = strchr(from, '\n'))) {
        *newline = 0;
        command(from);
        from = newline + 1;
    }
    used = strlen(from);
    memmove(line, from, used + 1);
}

/* What is due by the clock rather than by a socket. */
static void tick(void)
{
    send_owed();
    if (opening.pending && now > opening.progress + OPEN_SECONDS)
        die("%d clients wait, and none was served for %.0f s", opening.pending, OPEN_SECONDS);
    if (options.received_ms && options.protocol->received && now >= confirm_at) {
        confirm_received();
        confirm_at = now + options.received_ms / 1000.0;
    }
    if (drain_until && (settled() || now >= drain_until)) {
        drain_until = 0;
        answer_counts();
    }
}

static void run(void)
{
    struct epoll_event events[256];
    double next_tick = 0;
    for (;;) {
        int count = epoll_wait(poller, events, 256, 20);
        if (count < 0 && errno != EINTR)
            die("epoll_wait: %s", strerror(errno));
        now = clock_seconds();
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr) {
                now = clock_seconds();
                connection_event(events[i].data.ptr, events[i].events);
            } else {
                read_commands();
            }
        }
        if (now >= next_tick) {
            tick();
            next_tick = now + 0.02;
        }
    }
}

static const char *words(int argc, char **argv, const char *name)
{
    size_t length = strlen(name);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=')
            return argv[i] + length + 1;
    return NULL;
}

static void read_options(int argc, char **argv)
{
    static const struct protocol *const protocols[] = {&hubbub, &plain, &socketio};
    static const char *const partners[] = {"pairs", "all", "lobby", "nobody"};
    static const struct {
        const char *name;
        int *value;
    } numbers[] = {{"port", &options.port},           {"clients", &options.clients},
                   {"senders", &options.senders},     {"in-flight", &options.in_flight},
                   {"content", &options.content_bytes}, {"timed-step", &options.timed_step},
                   {"received", &options.received_ms}};
    const char *word;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if ((word = words(argc, argv, numbers[i].name)))
            *numbers[i].value = atoi(word);
    if ((word = words(argc, argv, "host")))
        options.host = word;
    if ((word = words(argc, argv, "run")))
        options.run = word;
    if ((word = words(argc, argv, "protocol"))) {
        options.protocol = NULL;
        for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; i++)
            if (strcmp(word, protocols[i]->name) == 0)
                options.protocol = protocols[i];
    }
    if ((word = words(argc, argv, "partners")))
        for (int i = 0; i < 4; i++)
            if (strcmp(word, partners[i]) == 0)
                options.partners = (enum partners)i;
    if (!options.protocol || strlen(options.run) != RUN_LENGTH || options.clients < 1 || options.clients > 999999 ||
        options.content_bytes < KEY_LENGTH || options.content_bytes > 60000 || options.timed_step < 1)
        die("an option is missing or out of range");
    if (options.partners == ALL && (!options.protocol->numbered || options.clients < 2))
        die("everybody to everybody takes two clients, and a server that numbers its conversations");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdout, NULL, _IOLBF, 0);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
        die("standard input must be a pipe: %s", strerror(errno));
    clients = grown(NULL, (size_t)options.clients * sizeof *clients);
    memset(clients, 0, (size_t)options.clients * sizeof *clients);
    for (int i = 0; i < options.clients; i++) {
        clients[i].index = i;
        clients[i].timed = i % options.timed_step == 0;
        clients[i].writes = options.partners == LOBBY ? i < options.senders : options.partners != NOBODY;
    }
    run();
}

/* The least that a chat over WebSockets can cost in one process: no JSON, no names, nothing kept, nothing copied twice.
 *
 * It speaks the generator's `plain` protocol and knows the generator's ways: usernames are bench-N, a direct message's
 * recipient stands at the end of the text, a message's key behind "id". For every message it makes one frame and gives
 * it to one send() for each socket, so with a sender that always has another one in flight it does nothing but write:
 * what it reaches is the limit of one frame, one write on this machine.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { USERS = 100000, KEY_LENGTH = 24, KEEP = 16384 };

/* The generator's handshake always has RFC 6455's example key. */
static const char upgrade[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct user {
    int fd, number;
    bool open;
    size_t kept;
    char *in; /* KEEP bytes: what came of a frame or a request so far */
};

static struct user *users[USERS]; /* by number, those who are connected */
static int highest;               /* no number above it is */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void leave(struct user *user)
{
    if (user->open && users[user->number] == user)
        users[user->number] = NULL;
    close(user->fd);
    free(user->in);
    free(user);
}

/* Everything or, when the client has gone, nothing: who reads slowly is waited for. */
static void write_all(struct user *user, const char *data, size_t length)
{
    while (length) {
        ssize_t put = send(user->fd, data, length, MSG_NOSIGNAL);
        if (put < 0 && errno == EAGAIN) {
            struct pollfd one = {.fd = user->fd, .events = POLLOUT};
            poll(&one, 1, 1000);
        } else if (put < 0) {
            return; /* its end of file comes next */
        } else {
            data += put, length -= (size_t)put;
        }
    }
}

static size_t framed(char *to, const char *text, size_t length)
{
    size_t head = 2;
    to[0] = (char)0x81;
    if (length < 126) {
        to[1] = (char)length;
    } else {
        to[1] = 126, to[2] = (char)(length >> 8), to[3] = (char)length;
        head = 4;
    }
    memcpy(to + head, text, length);
    return head + length;
}

static void message(struct user *from, char *text, size_t length)
{
    static char frame[KEEP + 64], ack[128];
    char line[96];
    text[length] = 0;
    const char *key = strstr(text, "\"id\":\""), *recipient = strstr(text, "\"recipient\":\"bench-");
    if (!key)
        return;
    /* "send" has one character for each of "sent"; readers look for the type: make it a message in place. */
    static char changed[KEEP];
    const char *rest = strchr(text, ',');
    int size = snprintf(changed, sizeof changed, "{\"type\":\"message\"%s", rest ? rest : "}");
    size_t frame_size = framed(frame, changed, (size_t)size);
    if (recipient) {
        int number = atoi(recipient + strlen("\"recipient\":\"bench-"));
        if (number < USERS && users[number])
            write_all(users[number], frame, frame_size);
    } else {
        for (int i = 0; i <= highest; i++)
            if (users[i] && users[i] != from)
                write_all(users[i], frame, frame_size);
    }
    int said = snprintf(line, sizeof line, "{\"type\":\"ack\",\"id\":\"%.*s\"}", KEY_LENGTH, key + strlen("\"id\":\""));
    write_all(from, ack, framed(ack, line, (size_t)said));
}

/* How much of what came was a whole request or frame; 0 while it is none. */
static size_t consume(struct user *user, char *data, size_t length)
{
    if (!user->open) {
        char *end = memmem(data, length, "\r\n\r\n", 4), *name = memmem(data, length, "username=bench-", 15);
        if (!end || !name)
            return 0;
        user->number = atoi(name + 15);
        if (user->number >= USERS)
            exit(1);
        user->open = true;
        users[user->number] = user;
        if (user->number > highest)
            highest = user->number;
        write_all(user, upgrade, sizeof upgrade - 1);
        return (size_t)(end - data) + 4;
    }
    const unsigned char *head = (unsigned char *)data;
    if (length < 8)
        return 0;
    size_t size = head[1] & 0x7f, start = 6;
    if (size == 126)
        size = (size_t)head[2] << 8 | head[3], start = 8;
    if (length < start + size)
        return 0;
    char text[KEEP];
    for (size_t i = 0; i < size; i++)
        text[i] = (char)(data[start + i] ^ data[start - 4 + i % 4]);
    if ((head[0] & 0x0f) == 1)
        message(user, text, size);
    return start + size;
}

static bool readable(struct user *user)
{
    ssize_t got = recv(user->fd, user->in + user->kept, KEEP - 1 - user->kept, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    user->kept += (size_t)got;
    size_t done = 0, one;
    while (done < user->kept && (one = consume(user, user->in + done, user->kept - done)))
        done += one;
    memmove(user->in, user->in + done, user->kept - done);
    user->kept -= done;
    return user->kept < KEEP - 1;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "8000"));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0)
        fail("cannot listen");
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct user *user = events[i].data.ptr;
            if (user) {
                if (!readable(user))
                    leave(user);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0)
                continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            user = calloc(1, sizeof *user);
            if (!user || !(user->in = malloc(KEEP)))
                fail("out of memory");
            user->fd = fd;
            event.data.ptr = user;
            epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        }
    }
}

/* Sockets, and RFC 6455 from the client's side. */
#include "generator.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* The example of RFC 6455: with a fixed key the answer is known, and no SHA-1 is needed to check it. */
#define WEBSOCKET_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define WEBSOCKET_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum opcode { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

/* All that one read may bring, and before it the beginning of a frame that was kept. */
static char buffer[1 << 19];
static uint32_t mask_state = 2463534242u;

static void watch(struct client *c, bool writing)
{
    if (writing == c->polled_for_writing)
        return;
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->polled_for_writing = writing;
}

static void append(struct bytes *to, const void *data, size_t length)
{
    if (to->used + length > to->size) {
        to->size = 2 * (to->used + length);
        to->data = grown(to->data, to->size);
    }
    memcpy(to->data + to->used, data, length);
    to->used += length;
}

static void queue_frame(struct client *c, enum opcode opcode, const char *payload, size_t length)
{
    mask_state ^= mask_state << 13, mask_state ^= mask_state >> 17, mask_state ^= mask_state << 5;
    uint64_t wide = ((uint64_t)mask_state << 32) | mask_state;
    unsigned char head[14] = {(unsigned char)(0x80 | opcode)};
    size_t size = 2;
    if (length < 126) {
        head[1] = 0x80 | (unsigned char)length;
    } else if (length < 0x10000) {
        head[1] = 0x80 | 126, head[2] = (unsigned char)(length >> 8), head[3] = (unsigned char)length;
        size = 4;
    } else {
        die("a frame of %zu bytes is more than this generator sends", length);
    }
    memcpy(head + size, &wide, 4);
    append(&c->out, head, size + 4);
    size_t start = c->out.used;
    append(&c->out, payload, length);
    char *at = c->out.data + start;
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t word;
        memcpy(&word, at + i, 8);
        word ^= wide;
        memcpy(at + i, &word, 8);
    }
    for (; i < length; i++)
        at[i] ^= ((const char *)&wide)[i % 4];
}

void queue_text(struct client *c, const char *text, size_t length)
{
    queue_frame(c, TEXT, text, length);
}

void connection_open(struct client *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1)
        die("%s is no IPv4 address", options.host);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("client %d: no socket: %s", c->index, strerror(errno));
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        die("client %d: cannot connect: %s", c->index, strerror(errno));
    c->state = CONNECTING;
    c->polled_for_writing = true;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void upgrade(struct client *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        die("client %d: cannot connect: %s", c->index, strerror(error));
    char target[512], request[1024];
    options.protocol->target(c, target, sizeof target);
    int length = snprintf(request, sizeof request,
                          "GET %s\r\nHost: %s:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                          "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " WEBSOCKET_KEY "\r\n\r\n",
                          target, options.host, options.port);
    append(&c->out, request, (size_t)length);
    c->state = UPGRADING;
}

/* How much of the text was the answer to the request; 0 while it is incomplete. */
static size_t upgraded(struct client *c, const char *text, size_t length)
{
    const char *behind = memmem(text, length, "\r\n\r\n", 4);
    if (!behind)
        return 0;
    size_t size = (size_t)(behind - text) + 4;
    const char *line = memchr(text, '\r', size);
    if (!starts_with(text, text + size, "HTTP/1.1 101 "))
        die("client %d: the server refuses: %.*s", c->index, (int)(line - text), text);
    if (!memmem(text, size, WEBSOCKET_ACCEPT, strlen(WEBSOCKET_ACCEPT)))
        die("client %d: the server's answer to the handshake is wrong", c->index);
    c->state = JOINING;
    options.protocol->upgraded(c);
    return size;
}

static void lost(struct client *c)
{
    if (c->state != LIVE)
        die("client %d: the server closed the connection before it was ready", c->index);
    problem(1, "disconnected");
    connection_close(c);
}

static void frame(struct client *c, int opcode, const char *payload, size_t length)
{
    switch (opcode) {
    case TEXT:
        options.protocol->text(c, payload, payload + length);
        break;
    case PING:
        queue_frame(c, PONG, payload, length);
        break;
    case PONG:
        break;
    case CLOSE:
        if (length >= 2)
            problem(1, "closed by the server with %d", (unsigned char)payload[0] << 8 | (unsigned char)payload[1]);
        queue_frame(c, CLOSE, payload, length);
        break;
    default:
        problem(1, "a frame of opcode %d", opcode);
    }
}

/* How much of the text were whole frames, all of which were taken. */
static size_t frames(struct client *c, const char *text, size_t length)
{
    size_t done = 0;
    while (c->state != CLOSED && length - done >= 2) {
        const unsigned char *head = (const unsigned char *)text + done;
        size_t size = head[1] & 0x7f, header = size < 126 ? 2 : size == 126 ? 4 : 10;
        if (length - done < header)
            break;
        if (size == 126)
            size = (size_t)head[2] << 8 | head[3];
        else if (size == 127)
            size = (size_t)head[6] << 24 | (size_t)head[7] << 16 | (size_t)head[8] << 8 | head[9];
        if ((head[0] & 0xf0) != 0x80 || head[1] & 0x80 || header + size > sizeof buffer / 2)
            die("client %d: a frame that no server of ours sends: %02x %02x", c->index, head[0], head[1]);
        if (length - done < header + size)
            break;
        frame(c, head[0] & 0x0f, (const char *)head + header, size);
        done += header + size;
    }
    return done;
}

static void readable(struct client *c)
{
    size_t kept = c->in.used;
    memcpy(buffer, c->in.data, kept);
    ssize_t got = recv(c->fd, buffer + kept, sizeof buffer - kept, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        lost(c);
        return;
    }
    size_t length = kept + (size_t)got, done = 0;
    if (c->state == UPGRADING)
        done = upgraded(c, buffer, length);
    if (c->state != UPGRADING)
        done += frames(c, buffer + done, length - done);
    c->in.used = 0;
    if (c->state != CLOSED && done < length)
        append(&c->in, buffer + done, length - done);
}

void connection_event(struct client *c, uint32_t events)
{
    if (c->state == CLOSED)
        return; /* by an event of the same turn */
    if (c->state == CONNECTING)
        upgrade(c);
    else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        readable(c);
    if (c->state != CLOSED)
        connection_flush(c);
}

void connection_flush(struct client *c)
{
    while (c->written < c->out.used) {
        ssize_t put = send(c->fd, c->out.data + c->written, c->out.used - c->written, MSG_NOSIGNAL);
        if (put < 0) {
            if (errno == EAGAIN) {
                watch(c, true);
                return;
            }
            lost(c);
            return;
        }
        c->written += (size_t)put;
    }
    c->written = c->out.used = 0;
    watch(c, false);
}

void connection_close(struct client *c)
{
    if (c->state == UNOPENED || c->state == CLOSED)
        return;
    close(c->fd);
    c->state = CLOSED;
}

/* Load in which every request has an identity: `GET /id` with `x-id: <unique>` must be answered 200 with exactly that id, as a
 * field and as the body, and with nothing behind it. What a mixed-up connection, a lost byte or a dropped request would do, counts.
 *
 *   idload [--connections N] [--requests N] [--seconds S] [--post %] [--body BYTES] [--close %] [--pipeline %]
 *          [--pause MS] [--timeout S] PORT...
 *
 * Ends after that many requests or seconds, whichever comes first, or on SIGTERM; requests that were begun are finished. Prints a
 * line of JSON at the start (it hears signals from then on), one on every SIGUSR1, and one at the end.
 *
 *   ok          answered as they should be
 *   status      answered with another status than 200
 *   broken      closed, reset, timed out or unreadable before the answer was whole
 *   cut         connections on which that happened: a pipelined one loses more than one request
 *   mismatched  somebody else's answer, or bytes nobody asked for
 *   refused     connects that failed; tried again a moment later
 *   reconnects  new connections in the place of those that ended between two requests
 *   resent      requests pipelined behind one whose answer closed the connection: not processed (RFC 9112 9.3.2), sent again
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH = 2, ROOM = 16384, EVENTS = 256, RETRY_MS = 20 };

struct connection {
    int fd;                  /* -1: none */
    int outstanding;         /* requests sent or being sent whose answers are to come */
    int closes;              /* we asked for Connection: close */
    int connecting;
    unsigned long long ids[DEPTH];
    char *out;
    size_t out_size, out_sent;
    char in[ROOM];
    size_t in_size;
    double wake;             /* connect or send again, not before; 0: now */
    double deadline;         /* of the oldest request */
    unsigned number, turn;
};

static struct { unsigned long long begun, ok, status, broken, cut, mismatched, refused, reconnects, resent; } count;
static char first_failure[400];
static int post_share, body_most = 64, close_share, pipeline_share, pause_ms, port_count, poll_fd;
static int ports[64];
static double limit_s = 20, started;
static unsigned long long wanted, identity;
static char *filler;
static volatile sig_atomic_t is_stopping, wants_line;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static unsigned dice(unsigned sides) {
    static unsigned long long state = 88172645463325252ULL;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 33) % sides);
}

static void note(const char *format, ...) {
    static int is_known; /* a refused connect gives way to anything else */
    va_list arguments;
    if (is_known) return;
    is_known = strncmp(format, "connect ", 8) != 0;
    va_start(arguments, format);
    vsnprintf(first_failure, sizeof first_failure, format, arguments);
    va_end(arguments);
    for (char *c = first_failure; *c; c++)
        if (*c < ' ' || *c == '"' || *c == '\\' || *c == 127) *c = '.';
}

static void print_line(void) {
    printf("{\"begun\": %llu, \"ok\": %llu, \"status\": %llu, \"broken\": %llu, \"cut\": %llu, \"mismatched\": %llu, \"refused\": %llu, "
           "\"reconnects\": %llu, \"resent\": %llu, \"seconds\": %.3f, \"first_failure\": \"%s\"}\n",
           count.begun, count.ok, count.status, count.broken, count.cut, count.mismatched, count.refused, count.reconnects, count.resent,
           now() - started, first_failure);
    fflush(stdout);
}

static int may_begin(void) { return !is_stopping && (!wanted || count.begun < wanted); }

static void drop(struct connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->closes = c->connecting = 0;
    c->in_size = c->out_size = c->out_sent = 0;
}

/* The connection has ended with `outstanding` requests unanswered. */
static void broke(struct connection *c, const char *why, int error) {
    count.broken += c->outstanding;
    count.cut += c->outstanding > 0;
    note("connection %u, id %llx, %zu bytes of the answer: %s %s", c->number, c->ids[0], c->in_size, why, error ? strerror(error) : "");
    c->outstanding = 0;
    drop(c);
}

static void watch(struct connection *c, int operation) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | (c->connecting || c->out_sent < c->out_size ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poll_fd, operation, c->fd, &event);
}

static void refused(struct connection *c, int error) {
    count.refused++;
    note("connect failed: %s", strerror(error));
    drop(c);
    c->wake = now() + RETRY_MS / 1e3;
}

/* True when it is connected already, as on loopback it mostly is. */
static int dial(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    address.sin_port = htons((unsigned short)ports[(c->number + c->turn++) % (unsigned)port_count]);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        perror("socket");
        exit(2);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int failed = connect(c->fd, (struct sockaddr *)&address, sizeof address);
    if (failed && errno != EINPROGRESS) {
        refused(c, errno);
        return 0;
    }
    c->connecting = failed != 0;
    c->deadline = now() + limit_s;
    watch(c, EPOLL_CTL_ADD);
    return !c->connecting;
}

static void append_request(struct connection *c, unsigned long long id) {
    int is_post = post_share && dice(100) < (unsigned)post_share;
    size_t body = is_post ? 1 + dice((unsigned)body_most) : 0;
    char length[64] = "";
    if (is_post) snprintf(length, sizeof length, "Content-Length: %zu\r\n", body);
    c->out_size += (size_t)sprintf(c->out + c->out_size, "%s /id HTTP/1.1\r\nHost: id\r\nx-id: %llx\r\n%s%s\r\n", is_post ? "POST" : "GET",
                                   id, length, c->closes ? "Connection: close\r\n" : "");
    memcpy(c->out + c->out_size, filler, body);
    c->out_size += body;
}

static void send_more(struct connection *c) {
    int was_blocked = c->out_sent > 0;
    while (c->out_sent < c->out_size) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_size - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return; /* what was received so far tells whether it matters */
            break;
        }
        c->out_sent += (size_t)sent;
    }
    if (c->out_sent < c->out_size || was_blocked) watch(c, EPOLL_CTL_MOD);
}

static void begin(struct connection *c);

static void connected(struct connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        refused(c, error);
        return;
    }
    c->connecting = 0;
    watch(c, EPOLL_CTL_MOD);
    begin(c);
}

/* Sends what is outstanding already (after a close in front of it), or new requests. */
static void begin(struct connection *c) {
    if (!c->outstanding && !may_begin()) return;
    if (c->fd < 0 && !dial(c)) {
        if (is_stopping) c->outstanding = 0; /* resent in vain: nobody had promised to process them */
        return;
    }
    c->out_size = c->out_sent = 0;
    if (!c->outstanding) {
        int many = pipeline_share && dice(100) < (unsigned)pipeline_share ? DEPTH : 1;
        c->closes = many == 1 && close_share && dice(100) < (unsigned)close_share;
        while (c->outstanding < many && may_begin()) {
            c->ids[c->outstanding++] = ++identity;
            count.begun++;
        }
    }
    for (int n = 0; n < c->outstanding; n++) append_request(c, c->ids[n]);
    c->wake = 0;
    c->deadline = now() + limit_s;
    send_more(c);
}

static const char *field(const char *head, const char *name, size_t *size) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, length) && line[length] == ':') {
            const char *value = line + length + 1;
            while (*value == ' ') value++;
            *size = (size_t)(strstr(value, "\r\n") - value);
            return value;
        }
    }
    return NULL;
}

static int is_value(const char *head, const char *name, const char *wanted_value) {
    size_t size = 0;
    const char *value = field(head, name, &size);
    return value && size == strlen(wanted_value) && !strncasecmp(value, wanted_value, size);
}

/* The next whole answer in the buffer: 0 when there is none yet, 1 taken, -1 the connection has ended with it. */
static int take_answer(struct connection *c) {
    char expected[32], *end, *body;
    size_t size, length;
    c->in[c->in_size] = 0;
    end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    end[2] = 0; /* the head alone, for strstr */
    body = end + 4;
    const char *given = field(c->in, "content-length", &size);
    length = given ? strtoull(given, NULL, 10) : (size_t)-1;
    if (strncmp(c->in, "HTTP/1.1 ", 9) || !given || length > ROOM / 2) {
        broke(c, "cannot be read:", 0);
        return -1;
    }
    if ((size_t)(c->in + c->in_size - body) < length) {
        end[2] = '\r';
        return 0;
    }
    snprintf(expected, sizeof expected, "%llx", c->ids[0]);
    if (strncmp(c->in + 9, "200", 3)) {
        count.status++;
        note("id %s: %.120s", expected, c->in);
    } else if (length != strlen(expected) || memcmp(body, expected, length) || !is_value(c->in, "x-id", expected)) {
        count.mismatched++;
        note("id %s got %.*s", expected, (int)length, body);
    } else {
        count.ok++;
    }
    int ends = c->closes || is_value(c->in, "connection", "close");
    c->ids[0] = c->ids[1];
    c->outstanding--;
    c->in_size -= (size_t)(body + length - c->in);
    memmove(c->in, body + length, c->in_size);
    if (c->in_size && (ends || !c->outstanding)) {
        count.mismatched++;
        note("%zu bytes behind the answer to %s: %.100s", c->in_size, expected, c->in);
        ends = 1;
    }
    if (ends) {
        count.resent += c->outstanding;
        drop(c);
        count.reconnects++;
        return -1;
    }
    return 1;
}

static void receive(struct connection *c) {
    for (;;) {
        ssize_t got = recv(c->fd, c->in + c->in_size, ROOM - 1 - c->in_size, 0);
        if (got < 0 && errno == EAGAIN) break;
        if (got <= 0) {
            if (c->outstanding) {
                broke(c, got ? "failed:" : "closed", got ? errno : 0);
            } else { /* between requests: theirs to end, ours to come back */
                count.reconnects++;
                drop(c);
            }
            break;
        }
        c->in_size += (size_t)got;
        if (!c->outstanding) {
            count.mismatched++;
            note("%zu bytes nobody asked for: %.100s", c->in_size, c->in);
            drop(c);
            break;
        }
        int taken;
        while ((taken = take_answer(c)) > 0 && c->outstanding) {}
        if (taken < 0) break;
        if (!c->outstanding) break;
        c->deadline = now() + limit_s;
    }
    if (c->fd >= 0 && c->outstanding) return;
    if (!c->wake && pause_ms) c->wake = now() + dice(2 * (unsigned)pause_ms) / 1e3;
    if (!c->wake) begin(c);
}

static int number_of(const char *text) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < 0) {
        fprintf(stderr, "idload: %s is not a number\n", text);
        exit(2);
    }
    return (int)value;
}

static void on_signal(int number) {
    if (number == SIGUSR1) wants_line = 1;
    else is_stopping = 1;
}

int main(int argc, char **argv) {
    int connections = 32, seconds = 0;
    for (int n = 1; n < argc; n++) {
        const char *option = argv[n];
        if (strncmp(option, "--", 2)) {
            if (port_count < 64) ports[port_count++] = number_of(option);
            continue;
        }
        int value = number_of(n + 1 < argc ? argv[++n] : "");
        if (!strcmp(option, "--connections")) connections = value;
        else if (!strcmp(option, "--requests")) wanted = (unsigned long long)value;
        else if (!strcmp(option, "--seconds")) seconds = value;
        else if (!strcmp(option, "--post")) post_share = value;
        else if (!strcmp(option, "--body")) body_most = value;
        else if (!strcmp(option, "--close")) close_share = value;
        else if (!strcmp(option, "--pipeline")) pipeline_share = value;
        else if (!strcmp(option, "--pause")) pause_ms = value;
        else if (!strcmp(option, "--timeout")) limit_s = value;
        else {
            fprintf(stderr, "idload: unknown option %s\n", option);
            return 2;
        }
    }
    if (!port_count || connections < 1 || body_most < 1) {
        fprintf(stderr, "usage: idload [options] PORT...\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    filler = malloc((size_t)body_most);
    memset(filler, 'b', (size_t)body_most);
    identity = ((unsigned long long)getpid()) << 32; /* two programs never ask with the same id */
    struct connection *all = calloc((size_t)connections, sizeof *all);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    started = now();
    print_line();
    for (int n = 0; n < connections; n++) {
        all[n].fd = -1;
        all[n].number = (unsigned)n;
        all[n].out = malloc(DEPTH * (256 + (size_t)body_most));
        begin(&all[n]);
    }
    for (double swept = 0;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poll_fd, events, EVENTS, 5);
        for (int n = 0; n < ready; n++) {
            struct connection *c = events[n].data.ptr;
            if (c->fd < 0) continue;
            if (c->connecting) {
                connected(c);
                continue;
            }
            if (events[n].events & EPOLLOUT) send_more(c);
            if (events[n].events & ~(unsigned)EPOLLOUT) receive(c);
        }
        if (wants_line) {
            wants_line = 0;
            print_line();
        }
        double moment = now();
        if (moment - swept < 0.005) continue;
        swept = moment;
        if (seconds && moment - started >= seconds) is_stopping = 1;
        int busy = may_begin();
        for (int n = 0; n < connections; n++) {
            struct connection *c = &all[n];
            int is_sent = c->fd >= 0 && c->outstanding;
            if (c->connecting) {
                if (moment > c->deadline) refused(c, ETIMEDOUT);
            } else if (is_sent && moment > c->deadline) broke(c, "timed out", 0);
            else if (!is_sent && moment >= c->wake) begin(c);
            busy |= c->outstanding > 0;
        }
        if (!busy) break;
    }
    print_line();
    return 0;
}

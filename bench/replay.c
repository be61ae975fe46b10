/* Replays a client's requests against 127.0.0.1, from C, so that the client is not what is measured.

       replay PORT TEMPLATE BODIES CONNECTIONS WARM_S SECONDS

   Each of the keep-alive connections has one request under way; the next is sent when its answer has come (a closed
   loop). What came within SECONDS, after WARM_S that count for nothing, is told in one line of JSON.

   TEMPLATE: a file with the bytes of one request, in which five control characters, which no HTTP head holds, mean:
       0x01  the length of the body, in decimal digits
       0x02  the body
       0x03  one hex digit, drawn anew for each request
       0x1e  here the client's next write begins
   BODIES: a file with one body a line; all are sent in turns.

   One thread and epoll. Ends with 1 and a sentence on stderr when the server cannot be reached, closes a connection or
   says what is not HTTP/1.1 framed by Content-Length. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "latencies.h"

enum { LENGTH_MARK = 0x01, BODY_MARK = 0x02, HEX_MARK = 0x03, CUT_MARK = 0x1e };
enum { CONNECTIONS_MAX = 4096, ANSWER_BYTES_MAX = 1 << 16, CUTS_MAX = 16, NS_PER_S = 1000000000 };

static void die(const char *form, ...)
{
    va_list values;
    va_start(values, form);
    fputs("replay: ", stderr);
    vfprintf(stderr, form, values);
    fputc('\n', stderr);
    va_end(values);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Returns 64 random bits: xorshift64*, seeded by the kernel. */
static uint64_t draw(void)
{
    static uint64_t state;
    while (state == 0)
        if (getrandom(&state, sizeof state, 0) != sizeof state)
            die("no random bits: %s", strerror(errno));
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(2685821657736338717);
}

/* -- what is sent ------------------------------------------------------------------------------------------------- */

/* Bytes that are not owned. */
struct text {
    const char *bytes;
    size_t length;
};

static struct text read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die("%s: %s", path, strerror(errno));
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    char *bytes = malloc((size_t)length + 1);
    if (length <= 0 || !bytes || fread(bytes, 1, (size_t)length, file) != (size_t)length)
        die("%s: empty, or cannot be read", path);
    fclose(file);
    return (struct text){bytes, (size_t)length};
}

/* A run of the template: one mark repeated, or plain bytes, which have the mark 0. */
struct piece {
    int mark;
    struct text text;
};

struct template {
    struct piece *pieces;
    size_t count;
};

static int mark_of(char byte)
{
    bool is_mark = byte == LENGTH_MARK || byte == BODY_MARK || byte == HEX_MARK || byte == CUT_MARK;
    return is_mark ? byte : 0;
}

static struct template read_template(const char *path)
{
    struct text file = read_file(path);
    struct template template = {malloc(file.length * sizeof(struct piece)), 0};
    if (!template.pieces)
        die("no memory");
    for (size_t at = 0; at < file.length;) {
        int mark = mark_of(file.bytes[at]);
        size_t begin = at++;
        while (at < file.length && mark_of(file.bytes[at]) == mark && (mark == 0 || mark == HEX_MARK))
            at++;
        template.pieces[template.count++] = (struct piece){mark, {file.bytes + begin, at - begin}};
    }
    return template;
}

struct bodies {
    struct text *lines;
    size_t count, next, longest;
};

static struct bodies read_bodies(const char *path)
{
    struct text file = read_file(path);
    struct bodies bodies = {malloc(file.length * sizeof(struct text)), 0, 0, 0};
    if (!bodies.lines)
        die("no memory");
    for (const char *line = file.bytes, *end = file.bytes + file.length; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((stop ? stop : end) - line);
        bodies.lines[bodies.count++] = (struct text){line, length};
        bodies.longest = length > bodies.longest ? length : bodies.longest;
        line += length + 1;
    }
    return bodies;
}

/* A request as it is written: its bytes, and where each write ends. */
struct request {
    char *bytes;
    size_t ends[CUTS_MAX];
    int writes;
};

static struct request make_request(const struct template *template, size_t body_bytes_max)
{
    size_t most = 1, cuts = 0;
    for (size_t i = 0; i < template->count; i++) {
        const struct piece *piece = &template->pieces[i];
        most += piece->mark == BODY_MARK ? body_bytes_max : piece->mark == LENGTH_MARK ? 20 : piece->text.length;
        cuts += piece->mark == CUT_MARK;
    }
    if (cuts >= CUTS_MAX)
        die("the template has %zu writes", cuts + 1);
    struct request request = {.bytes = malloc(most)};
    if (!request.bytes)
        die("no memory");
    return request;
}

static char *write_hex(char *at, size_t digits)
{
    static const char hex[] = "0123456789abcdef";
    uint64_t bits = 0;
    for (size_t i = 0; i < digits; i++, bits >>= 4) {
        if (i % 16 == 0)
            bits = draw();
        *at++ = hex[bits & 15];
    }
    return at;
}

static char *write_length(char *at, size_t length)
{
    char digits[20];
    int count = 0;
    do
        digits[count++] = (char)('0' + length % 10);
    while (length /= 10);
    while (count)
        *at++ = digits[--count];
    return at;
}

static void fill_request(struct request *request, const struct template *template, struct text body)
{
    char *at = request->bytes;
    request->writes = 0;
    for (size_t i = 0; i < template->count; i++) {
        const struct piece *piece = &template->pieces[i];
        switch (piece->mark) {
        case LENGTH_MARK:
            at = write_length(at, body.length);
            break;
        case BODY_MARK:
            at = mempcpy(at, body.bytes, body.length);
            break;
        case HEX_MARK:
            at = write_hex(at, piece->text.length);
            break;
        case CUT_MARK:
            request->ends[request->writes++] = (size_t)(at - request->bytes);
            break;
        default:
            at = mempcpy(at, piece->text.bytes, piece->text.length);
        }
    }
    request->ends[request->writes++] = (size_t)(at - request->bytes);
}

/* -- connections -------------------------------------------------------------------------------------------------- */

struct connection {
    int fd;
    uint64_t sent_ns;
    size_t received;
    char answer[ANSWER_BYTES_MAX];
};

struct outcome {
    uint64_t ok, not_200;
    int other_status;
    struct latencies latencies;
};

static void open_connection(struct connection *connection, int poll_fd, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("cannot connect to port %d: %s", port, strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, connection->fd, &event) < 0)
        die("epoll: %s", strerror(errno));
}

/* Sends a request, one write a segment. The socket is empty, since its last answer has come, so it takes all. */
static void send_request(struct connection *connection, const struct request *request)
{
    size_t begin = 0;
    connection->received = 0;
    connection->sent_ns = now_ns();
    for (int i = 0; i < request->writes; begin = request->ends[i++]) {
        size_t length = request->ends[i] - begin;
        ssize_t sent = send(connection->fd, request->bytes + begin, length, MSG_NOSIGNAL);
        if (sent != (ssize_t)length)
            die("the server took %zd of %zu bytes: %s", sent, length, sent < 0 ? strerror(errno) : "its window is full");
    }
}

/* Returns the value of Content-Length in a head, which ends with an empty line; -1 where there is none. */
static long find_length(const char *head, const char *end)
{
    static const char name[] = "content-length:";
    const char *line = head;
    while ((line = memchr(line, '\n', (size_t)(end - line))) && ++line < end)
        if (strncasecmp(line, name, sizeof name - 1) == 0)
            return strtol(line + sizeof name - 1, NULL, 10);
    return -1;
}

/* Takes in what has come; returns the status of the answer when it is whole, 0 while it is not. */
static int receive(struct connection *connection)
{
    char *answer = connection->answer;
    size_t room = sizeof connection->answer - 1 - connection->received;
    ssize_t came = recv(connection->fd, answer + connection->received, room, 0);
    if (came <= 0)
        die("the server closed a connection: %s", came < 0 ? strerror(errno) : "without a word");
    connection->received += (size_t)came;
    answer[connection->received] = 0;
    char *end = memmem(answer, connection->received, "\r\n\r\n", 4);
    if (!end) {
        if (room == (size_t)came)
            die("an answer's head is longer than %d bytes", ANSWER_BYTES_MAX);
        return 0;
    }
    long length = find_length(answer, end + 2);
    if (length < 0 || strncmp(answer, "HTTP/1.1 ", 9) != 0)
        die("not an HTTP/1.1 answer with Content-Length: %.200s", answer);
    size_t whole = (size_t)(end - answer) + 4 + (size_t)length;
    if (whole >= sizeof connection->answer || connection->received > whole)
        die("an answer of %zu bytes, of which %zu were announced", connection->received, whole);
    return connection->received == whole ? atoi(answer + 9) : 0;
}

static void count_answer(struct outcome *outcome, int status, uint64_t latency_ns)
{
    record_latency(&outcome->latencies, latency_ns);
    if (status == 200) {
        outcome->ok++;
    } else {
        outcome->not_200++;
        outcome->other_status = status;
    }
}

/* -- the run ------------------------------------------------------------------------------------------------------ */

struct run {
    struct template template;
    struct bodies bodies;
    struct request request;
    struct outcome outcome;
    uint64_t start_ns, end_ns;
};

static void send_next(struct run *run, struct connection *connection)
{
    fill_request(&run->request, &run->template, run->bodies.lines[run->bodies.next]);
    run->bodies.next = (run->bodies.next + 1) % run->bodies.count;
    send_request(connection, &run->request);
}

static void serve_loop(struct run *run, int poll_fd)
{
    struct epoll_event events[256];
    for (uint64_t now = now_ns(); now < run->end_ns; now = now_ns()) {
        int ready = epoll_wait(poll_fd, events, 256, 100);
        if (ready < 0 && errno != EINTR)
            die("epoll: %s", strerror(errno));
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            int status = receive(connection);
            if (status == 0)
                continue;
            uint64_t came_ns = now_ns();
            if (came_ns >= run->start_ns && came_ns < run->end_ns)
                count_answer(&run->outcome, status, came_ns - connection->sent_ns);
            send_next(run, connection);
        }
    }
}

static double cpu_s(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void print_outcome(struct outcome *outcome, double seconds, double cpu_share)
{
    printf("{\"ok\": %llu, \"not_200\": %llu, \"other_status\": %d, \"seconds\": %.6f, \"cpu_share\": %.3f, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f}\n",
           (unsigned long long)outcome->ok, (unsigned long long)outcome->not_200, outcome->other_status, seconds,
           cpu_share, percentile_us(&outcome->latencies, 0.5), percentile_us(&outcome->latencies, 0.99),
           percentile_us(&outcome->latencies, 0.999));
}

int main(int count, char **arguments)
{
    static struct run run;
    if (count != 7)
        die("replay PORT TEMPLATE BODIES CONNECTIONS WARM_S SECONDS");
    int port = atoi(arguments[1]), connections = atoi(arguments[4]), poll_fd = epoll_create1(0);
    double warm_s = atof(arguments[5]), seconds = atof(arguments[6]);
    if (connections < 1 || connections > CONNECTIONS_MAX || seconds <= 0 || poll_fd < 0)
        die("1 to %d connections, and more than no time", CONNECTIONS_MAX);
    run.template = read_template(arguments[2]);
    run.bodies = read_bodies(arguments[3]);
    run.request = make_request(&run.template, run.bodies.longest);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    if (!all)
        die("no memory");
    for (int i = 0; i < connections; i++)
        open_connection(&all[i], poll_fd, port);
    uint64_t began_ns = now_ns();
    double before_s = cpu_s();
    run.start_ns = began_ns + (uint64_t)(warm_s * NS_PER_S);
    run.end_ns = run.start_ns + (uint64_t)(seconds * NS_PER_S);
    for (int i = 0; i < connections; i++)
        send_next(&run, &all[i]);
    serve_loop(&run, poll_fd);
    print_outcome(&run.outcome, seconds, (cpu_s() - before_s) / ((double)(now_ns() - began_ns) / NS_PER_S));
    return 0;
}

/* Inference on a reef server of this host, through shared memory.
 *
 * The server is started with `reef serve --ring PATH`. A connection belongs to one thread at a time; who has
 * several opens a connection for each. Texts are UTF-8 and end with a zero byte.
 *
 * Calls return REEF_OK, a number that is not negative where they say so, REEF_NOTHING, or an error below zero,
 * whose text reef_error() has until the next call on that connection.
 *
 *   reef_client *reef = reef_connect("/run/reef.sock", 0, 0);
 *   int model = reef_open(reef, "m", NULL, inputs, 1, NULL, 0, 1);
 *   reef_acquire(reef, model, &slot);            a place for one request
 *   reef_input(reef, slot, 0, &data, &bytes);    write the input there
 *   reef_submit(reef, slot, NULL);
 *   reef_wait(reef, -1, &completion);            ended, well or not
 *   reef_output(reef, slot, 0, &output);         read the output there
 *   reef_close(reef);
 */
#ifndef REEF_H
#define REEF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct reef_client reef_client;

enum {
    REEF_OK = 0,
    REEF_NOTHING = 1,  /* no slot is free; no request has ended */
    REEF_REFUSED = -1, /* the server says no; the connection goes on */
    REEF_GONE = -2,    /* there is no connection, or no longer */
    REEF_MISUSE = -3   /* the call is wrong */
};

/* How a request ended. */
enum {
    REEF_DONE = 0,        /* with outputs */
    REEF_INVALID = 1,     /* the request is wrong */
    REEF_NOT_FOUND = 2,   /* there is no such model */
    REEF_UNSUPPORTED = 3, /* the server does not have this */
    REEF_UNAVAILABLE = 4, /* it may work later */
    REEF_LATE = 5,        /* its deadline passed or cannot be met */
    REEF_INTERNAL = 6,    /* the server's fault */
    REEF_CANCELLED = 7,   /* reef_cancel */
    REEF_UNAUTHENTICATED = 8, /* nobody is known by the token, or no longer */
    REEF_FORBIDDEN = 9,       /* the client may not: this model, or this class */
    REEF_LIMITED = 10         /* the client has had as much as it may have for now */
};

/* The class that a request asks for. */
enum { REEF_CLASS_OF_MODEL = 0, REEF_REAL_TIME = 1, REEF_BEST_EFFORT = 2 };

typedef struct {
    const char *name;
    const char *datatype; /* as in the Open Inference Protocol: "FP32", "INT64" */
    const size_t *shape;
    size_t rank;
} reef_input_spec;

typedef struct {
    const char *name;
    size_t bytes; /* room for it, where the model does not fix its shape; else 0 */
} reef_output_spec;

/* What a request asks of the scheduler. */
typedef struct {
    uint32_t class_;
    uint16_t priority;    /* 0: the model's level; n: level n - 1 */
    uint8_t has_deadline; /* whether deadline_us counts */
    uint8_t has_timeout;  /* whether timeout_us counts */
    uint64_t deadline_us; /* to the end of execution, from when the server sees it; 0 has passed */
    uint64_t timeout_us;  /* in the queue at most */
    const char *traceparent; /* the span that asks, as W3C Trace Context writes it, or NULL */
} reef_terms;

typedef struct {
    uint32_t slot;
    uint32_t status; /* REEF_DONE or why not */
    uint64_t tag;    /* how many requests were submitted before this one */
    uint64_t queue_ns;
    uint64_t compute_ns;
    uint64_t total_ns;
    const char *message; /* why it has no outputs, until the next reef_wait; NULL if it has */
    uint8_t preempted;   /* it displaced less urgent work */
    uint8_t late;        /* it ended after its deadline */
} reef_completion;

typedef struct {
    const uint8_t *data; /* dense, row-major, little endian; valid while the slot is acquired and not submitted */
    size_t bytes;
    size_t shape[8];
    size_t rank;
} reef_output_view;

/* Connects. `depth` slots at most over all models, `tensor_bytes` of room for their tensors; 0 stands for 64 and
 * 64 MiB. Never NULL: reef_is_connected says whether it worked, reef_error why not. */
reef_client *reef_connect(const char *path, size_t depth, size_t tensor_bytes);
int reef_is_connected(const reef_client *reef);
const char *reef_error(const reef_client *reef);

/* The same with a token, by which the server knows the client: its models, classes and limits hold. */
reef_client *reef_connect_as(const char *path, const char *token, size_t depth, size_t tensor_bytes);

/* Why the server refused the last call, or ended the connection: REEF_INVALID to REEF_LIMITED; REEF_DONE if it said
 * nothing.
 * A server of another version of the protocol refuses with REEF_INVALID, and the text names both. */
uint32_t reef_refusal(const reef_client *reef);

/* The server's number for this connection. Its logs and traces call a request by this number in 16 hexadecimal
 * digits, a dash and the tag: "%016" PRIx64 "-%" PRIu64. */
uint64_t reef_connection(const reef_client *reef);

void reef_close(reef_client *reef);

/* Opens a model for these shapes, with so many requests at once; its number. Without `version` each request goes to
 * the newest; without outputs it has all. */
int reef_open(reef_client *reef, const char *name, const char *version, const reef_input_spec *inputs,
              size_t input_count, const reef_output_spec *outputs, size_t output_count, size_t slots);

/* A slot that nobody has, or REEF_NOTHING. */
int reef_acquire(reef_client *reef, int model, uint32_t *slot);
int reef_release(reef_client *reef, uint32_t slot);

/* Where to write input `index` of a slot that is not in flight. It keeps what was written. */
int reef_input(reef_client *reef, uint32_t slot, size_t index, uint8_t **data, size_t *bytes);

/* Hands the request over; `terms` may be NULL. */
int reef_submit(reef_client *reef, uint32_t slot, const reef_terms *terms);

/* Asks for the end of the request in `slot`; its completion says how it ended. */
int reef_cancel(reef_client *reef, uint32_t slot);

/* The next request that has ended, or REEF_NOTHING after `timeout_us`: 0 looks once and makes no system call, below
 * zero waits as long as it takes. */
int reef_wait(reef_client *reef, int64_t timeout_us, reef_completion *completion);

/* Output `index` of the last request in `slot`. */
int reef_output(reef_client *reef, uint32_t slot, size_t index, reef_output_view *output);

#ifdef __cplusplus
}
#endif

#endif

/* One request to a model with one FP32 input: infer SOCKET MODEL INPUT EXTENT...
 *
 * The input is 0, 1, 2, ...; prints the shape and the first bytes of each output. REEF_TOKEN in the environment
 * says who asks.
 * gcc infer.c -I../include -L../../../target/release -lreef_client -o infer */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reef.h"

static int fail(reef_client *reef, const char *what) {
    fprintf(stderr, "%s (%" PRIu32 "): %s\n", what, reef_refusal(reef), reef_error(reef));
    reef_close(reef);
    return 1;
}

int main(int argc, char **argv) {
    size_t shape[8];
    size_t rank = 0;
    if (argc < 4 || argc > 12) {
        fprintf(stderr, "usage: infer SOCKET MODEL INPUT EXTENT...\n");
        return 2;
    }
    for (int index = 4; index < argc; index++) {
        shape[rank++] = strtoul(argv[index], NULL, 10);
    }
    reef_client *reef = reef_connect_as(argv[1], getenv("REEF_TOKEN"), 0, 0);
    if (!reef_is_connected(reef)) {
        return fail(reef, "connect");
    }
    reef_input_spec input = {argv[3], "FP32", shape, rank};
    int model = reef_open(reef, argv[2], NULL, &input, 1, NULL, 0, 1);
    if (model < 0) {
        return fail(reef, "open");
    }
    uint32_t slot;
    uint8_t *data;
    size_t bytes;
    if (reef_acquire(reef, model, &slot) != REEF_OK || reef_input(reef, slot, 0, &data, &bytes) != REEF_OK) {
        return fail(reef, "acquire");
    }
    for (size_t index = 0; index < bytes / 4; index++) {
        float value = (float)index;
        memcpy(data + 4 * index, &value, 4);
    }
    reef_completion completion;
    if (reef_submit(reef, slot, NULL) != REEF_OK || reef_wait(reef, -1, &completion) != REEF_OK) {
        return fail(reef, "infer");
    }
    if (completion.status != REEF_DONE) {
        fprintf(stderr, "refused (%" PRIu32 "): %s\n", completion.status, completion.message);
        reef_close(reef);
        return 1;
    }
    reef_output_view output;
    for (size_t index = 0; reef_output(reef, slot, index, &output) == REEF_OK; index++) {
        printf("output %zu shape", index);
        for (size_t axis = 0; axis < output.rank; axis++) {
            printf(" %zu", output.shape[axis]);
        }
        printf(" bytes %zu:", output.bytes);
        for (size_t byte = 0; byte < output.bytes && byte < 16; byte++) {
            printf(" %02x", output.data[byte]);
        }
        printf("\n");
    }
    reef_close(reef);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Runs a target once on each of the named files, without a fuzzer. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        uint8_t *bytes = NULL;
        size_t size = 0, room = 0;
        if (!file) return perror(argv[i]), EXIT_FAILURE;
        for (;;) {
            if (size == room) {
                room = room ? 2 * room : 4096;
                if (!(bytes = realloc(bytes, room))) return EXIT_FAILURE;
            }
            const size_t count = fread(bytes + size, 1, room - size, file);
            if (count == 0) break;
            size += count;
        }
        fclose(file);
        printf("%s\n", argv[i]);
        fflush(stdout);
        LLVMFuzzerTestOneInput(bytes, size);
        free(bytes);
    }
    printf("%d inputs\n", argc - 1);
    return EXIT_SUCCESS;
}

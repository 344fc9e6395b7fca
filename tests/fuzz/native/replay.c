/* Stands in for libFuzzer: hands the files that are named to the target, one by one. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int count, char **paths)
{
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(paths[i], "rb");
        if (!file || fseek(file, 0, SEEK_END))
            return 2;
        size_t size = (size_t)ftell(file);
        uint8_t *data = malloc(size ? size : 1); /* its end is the end of the input */
        rewind(file);
        if (!data || fread(data, 1, size, file) != size)
            return 2;
        fclose(file);
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    printf("%d inputs\n", count - 1);
    return 0;
}

/* fuzz/base/fuzz_option.c: the values of TREADLE_* variables, as text of any kind. */
#include "base/option.h"
#include "fuzz/harness.h"

#define UNTOUCHED INT64_C(-987654321)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *text = malloc(bytes + 1);
    FUZZ_CHECK(text != NULL);
    if (bytes > 0)
        memcpy(text, data, bytes);
    text[bytes] = '\0';
    static const td_option_type types[] = {TD_OPTION_BOOL,     TD_OPTION_INT,  TD_OPTION_BYTES,
                                           TD_OPTION_DURATION, TD_OPTION_SPIN, TD_OPTION_STRING};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        int64_t value = UNTOUCHED;
        if (td_option_parse(types[i], text, &value) != TD_OK)
            FUZZ_CHECK(value == UNTOUCHED);
    }
    free(text);
    return 0;
}

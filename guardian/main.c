/* guardian/main.c: treadle-guard, which removes the named segments that killed processes leave. */
#include "named/named.h"

int main(void)
{
    return td_guardian_main();
}

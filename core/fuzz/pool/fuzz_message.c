/* fuzz/pool/fuzz_message.c: the messages between parent and zygote, as either side receives them: any bytes, with any
 * number of descriptors. What is refused leaves no descriptor open. */
#include <sys/socket.h>

#include "fuzz/harness.h"
#include "os/channel.h"
#include "pool/birth.h"
#include "pool/zygote.h"

static int channel[2] = {-1, -1};
static int spare[TD_CHANNEL_FDS_MAX];

static void prepare(void)
{
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) == 0);
    for (size_t i = 0; i < TD_CHANNEL_FDS_MAX; i++)
        spare[i] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
}

static void send_message(const uint8_t *bytes, size_t count, size_t fds)
{
    FUZZ_CHECK(td_channel_send_until(channel[0], bytes, count, spare, fds, TD_FOREVER) == TD_OK);
}

static void receive_as_worker(void)
{
    struct td_letter letter;
    struct td_birth birth;
    if (td__message_receive_until(channel[1], &letter, 0) != TD_OK)
        return;
    FUZZ_CHECK(memchr(letter.text, 0, sizeof letter.text) != NULL);
    if (td__birth_open(&letter, &birth) == TD_OK)
        td_birth_fini(&birth);
}

static void receive_as_parent(void)
{
    struct td_zygote_news news = {.pidfd = -1};
    if (td_zygote_receive(channel[1], &news) != TD_OK)
        return;
    FUZZ_CHECK(memchr(news.reason, 0, sizeof news.reason) != NULL || news.event != TD_ZYGOTE_FAILED);
    if (news.event == TD_ZYGOTE_BORN && news.pidfd >= 0)
        close(news.pidfd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (channel[0] < 0)
        prepare();
    fuzz_input input = {data, bytes};
    const uint8_t flags = fuzz_byte(&input);
    const size_t fds = fuzz_byte(&input) % (TD_CHANNEL_FDS_MAX + 1);
    uint8_t message[sizeof(struct td_message) + TD_MESSAGE_TEXT_BYTES + 64];
    const size_t count = input.left < sizeof message ? input.left : sizeof message;
    if (count == 0)
        return 0;
    fuzz_take(&input, message, count);
    if ((flags & 1) == 0 && count >= 6) { /* half of the inputs get past magic and version */
        const struct td_message head = {.magic = TD_MESSAGE_MAGIC, .version = TD_MESSAGE_VERSION};
        memcpy(message, &head, 6);
    }

    const int before = fuzz_lowest_fd();
    send_message(message, count, fds);
    receive_as_worker();
    send_message(message, count, fds);
    receive_as_parent();
    FUZZ_CHECK(fuzz_lowest_fd() == before);
    return 0;
}

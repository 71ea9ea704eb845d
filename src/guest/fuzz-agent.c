/* fuzz-agent.c - any bytes from a guest in place of its agent's answers: no crash, no waiting
 * beyond the deadline, and a number only where there was one. */
#include "base/mono.h"
#include "guest/agent.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIME_US 50000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte chooses: whether the guest hangs up behind its bytes, and whether they come to the
 * synchronising or to a command. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct agent agent;
    struct why why = {};
    int64_t number = -1;
    int fds[2], r;

    if (size < 1)
        return 0;
    uint8_t how = *data++;
    size--;
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    ssize_t n = send(fds[1], data, size, MSG_NOSIGNAL);
    assert(n == (ssize_t)size || errno == EAGAIN || n >= 0);
    /* One that does not hang up makes us wait: few of them. */
    if (how != 'w')
        shutdown(fds[1], SHUT_WR);
    uint64_t begin_us = mono_us();
    if (how & 1) {
        r = agent_attach(&agent, fds[0], begin_us + TIME_US, &why);
        assert(r < 0); /* nobody guesses the number */
    } else {
        agent.fd = fds[0];
        agent.len = 0;
        r = agent_command(&agent, "guest-fsfreeze-freeze", begin_us + TIME_US, &number, &why);
        assert(r == 0 || number == -1);
    }
    assert(r == 0 || *why.text);
    assert(mono_us() < begin_us + TIME_US + 5000000);
    agent_close(&agent);
    close(fds[1]);
    return 0;
}

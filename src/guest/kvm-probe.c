/* kvm-probe.c - whether KVM really runs code here. /dev/kvm alone proves nothing: in containers and
 * nested machines it may open and then fail. */
#include "guest/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROBE_SECONDS 3

/* Exit codes of the child: which step failed. */
enum { PROBE_WORKS, PROBE_NO_DEVICE, PROBE_NO_PERMISSION, PROBE_NO_MACHINE, PROBE_NO_RUN };

#if defined(__x86_64__)
static int make_machine(int kvm, void *page)
{
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    struct kvm_userspace_memory_region region = {.memory_size = 4096,
                                                 .userspace_addr = (uint64_t)(uintptr_t)page};

    if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return -1;
    return ioctl(vm, KVM_CREATE_VCPU, 0);
}

/* Real mode, at address 0, where the one page begins with HLT. */
static bool runs(int kvm, int cpu)
{
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_regs regs = {.rflags = 2};
    struct kvm_sregs sregs;

    if (size < (int)sizeof(struct kvm_run) || ioctl(cpu, KVM_GET_SREGS, &sregs) < 0)
        return false;
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
    if (run == MAP_FAILED)
        return false;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    return ioctl(cpu, KVM_SET_SREGS, &sregs) == 0 && ioctl(cpu, KVM_SET_REGS, &regs) == 0 &&
           ioctl(cpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_HLT;
}

static int probe(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (kvm < 0)
        return errno == EACCES || errno == EPERM ? PROBE_NO_PERMISSION : PROBE_NO_DEVICE;
    unsigned char *page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return PROBE_NO_MACHINE;
    page[0] = 0xf4; /* HLT */
    int cpu = make_machine(kvm, page);
    if (cpu < 0)
        return PROBE_NO_MACHINE;
    return runs(kvm, cpu) ? PROBE_WORKS : PROBE_NO_RUN;
}
#else
static int probe(void)
{
    return PROBE_NO_RUN; /* guests are x86-64 ones */
}
#endif

int kvm_probe(struct why *why)
{
    static const char *const texts[] = {
        [PROBE_NO_DEVICE] = "there is no /dev/kvm",
        [PROBE_NO_PERMISSION] = "no permission to open /dev/kvm; join the group kvm",
        [PROBE_NO_MACHINE] = "the kernel does not make a machine",
        [PROBE_NO_RUN] = "the processor does not run guest code",
    };
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        alarm(PROBE_SECONDS);
        _exit(probe());
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (pid < 0)
        return why_set(why, -EOPNOTSUPP, "cannot try it: %s", strerror(errno));
    if (!WIFEXITED(status))
        return why_set(why, -EOPNOTSUPP, "a guest of one instruction did not end");
    if (WEXITSTATUS(status) == PROBE_WORKS)
        return 0;
    return why_set(why, -EOPNOTSUPP, "%s", texts[WEXITSTATUS(status)]);
}

/* scribbler.c - a guest of one file: no operating system, no interrupts, 32 bits without paging. It
 * starts by multiboot (qemu -kernel) and obeys the bytes that come over the first serial port:
 *
 *   F  write into every page from 16 MiB on; answers f
 *   D  write one word into each of 5,000 pages, scattered over them; answers d
 *   S  write words at random places until the next byte comes; answers s
 *   K  answers with the address of the record in which KVM keeps its clock, eight hexadecimal
 * digits, 0: none; and k N  nothing; answers n
 *
 * It says R when it is ready. */

#define FIRST_PAGE  4096u
#define DIRTY_PAGES 5000u
#define COM1        0x3f8

#define CPUID_KVM          0x40000000u /* EBX, ECX, EDX: "KVMKVMKVM" */
#define CPUID_KVM_FEATURES 0x40000001u /* EAX, bit 3: MSR_KVM_CLOCK is there */
#define MSR_KVM_CLOCK      0x4b564d01u /* bit 0: in use */

__asm__(".section .text.unlikely,\"ax\"\n"
        ".globl _start\n"
        ".align 4\n"
        ".long 0x1badb002, 2, -(0x1badb002 + 2)\n" /* multiboot: tell of the memory */
        "_start: mov $stack_end, %esp\n"
        "push %ebx\n"
        "call guest\n"
        "1: hlt; jmp 1b\n"
        ".bss\n"
        ".align 16\n"
        ".skip 16384\n"
        "stack_end:\n"
        ".text\n");

void guest(const unsigned *info);

static unsigned long long random_state = 88172645463325252ULL;

static unsigned next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 16);
}

static unsigned char in(unsigned short port)
{
    unsigned char value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void say(char c)
{
    while (!(in(COM1 + 5) & 0x20))
        ;
    __asm__ volatile("outb %0, %1" : : "a"(c), "Nd"((unsigned short)COM1));
}

static int has_byte(void)
{
    return in(COM1 + 5) & 1;
}

static volatile unsigned *word(unsigned page, unsigned at)
{
    return (volatile unsigned *)(page * 4096u + at % 1024u * 4u);
}

static void fill(unsigned pages)
{
    for (unsigned page = FIRST_PAGE; page < pages; page++)
        for (unsigned at = 0; at < 1024; at += 128)
            *word(page, at) = page * 2654435761u + at + 1;
}

/* One in each of as many equal parts: scattered, and none twice. */
static void dirty(unsigned pages)
{
    unsigned part = (pages - FIRST_PAGE) / DIRTY_PAGES;

    for (unsigned i = 0; i < DIRTY_PAGES; i++)
        ++*word(FIRST_PAGE + i * part + next_random() % part, next_random());
}

static void scribble(unsigned pages)
{
    unsigned n = 0;

    while (n % 64 || !has_byte()) {
        unsigned base = next_random() % (pages - FIRST_PAGE - 64);
        for (unsigned i = 0; i < 8; i++)
            *word(FIRST_PAGE + base + next_random() % 64, next_random()) = ++n;
    }
}

static unsigned cpuid(unsigned leaf, unsigned *ebx)
{
    unsigned eax, ecx, edx;
    __asm__ volatile("cpuid" : "=a"(eax), "=b"(*ebx), "=c"(ecx), "=d"(edx) : "a"(leaf), "c"(0));
    return eax;
}

/* The BIOS has set it up. */
static unsigned kvm_clock(void)
{
    unsigned ebx, low, high;

    cpuid(CPUID_KVM, &ebx);
    if (ebx != 0x4b4d564b || !(cpuid(CPUID_KVM_FEATURES, &ebx) & 8))
        return 0;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MSR_KVM_CLOCK));
    return low & 1 ? low & ~1u : 0;
}

static void say_hex(unsigned value)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        say("0123456789abcdef"[value >> shift & 15]);
}

void guest(const unsigned *info)
{
    unsigned pages = (info[2] + 1024u) / 4u; /* KiB above the first MiB */

    say('R');
    for (;;) {
        while (!has_byte())
            ;
        unsigned char order = in(COM1);
        if (order == 'F')
            fill(pages);
        else if (order == 'D')
            dirty(pages);
        else if (order == 'S')
            scribble(pages);
        else if (order == 'K')
            say_hex(kvm_clock());
        if (order >= 'A' && order <= 'Z')
            say((char)(order + 32));
    }
}

/* commands.c - the table of commands: the parser, --help, varve(1) and shell completion come from
 * it. */
#include "cli/cli.h"

#include <limits.h>

#define IMAGE_FORMATS "raw, qcow2, vmdk, vhdx or vdi"

const struct command commands[] = {
    {.name = "init",
     .arguments = "DIR",
     .summary = "Make an empty store",
     .text =
         "Make an empty store in the directory DIR, which must be empty or not exist. No daemon is "
         "needed; start one on it with varved --store DIR.",
     .min_args = 1,
     .max_args = 1,
     .options =
         {{"capacity", "SIZE",
           "The most that the store may occupy, at least 512M. Without it the store may take what "
           "its file system has when it is opened: one that grows is used from the next start of "
           "varved on."}},
     .examples = {"varve init /var/lib/varve", "varve init --capacity 100G /srv/store"},
     .run = cmd_init},
    {.name = "create",
     .arguments = "VM",
     .summary = "Make a vm",
     .text = "Make a vm, with an empty disk named root if a size is given.",
     .min_args = 1,
     .max_args = 1,
     .options = {{"size", "SIZE",
                  "Make a disk named root of this size: 10G, 512M, 1T or bytes; a "
                  "multiple of 512 bytes from 4096 bytes to 128 PiB.",
                  's'},
                 {"role", "ROLE", "What the vm is for: generic, app, database or balancer."}},
     .examples = {"varve create web1 --size 10G", "varve create db1 --size 100G --role database"},
     .run = cmd_create},
    {.name = "import",
     .arguments = "FILE VM[/DISK]",
     .summary = "Make a vm or a disk from a disk image",
     .text = "Read the disk image FILE (" IMAGE_FORMATS
             ") into a new disk. The vm is made if it is not "
             "there; the disk is root unless it is named. Holes stay holes. What is made is "
             "provisional until it is complete: an import that fails or is interrupted is taken "
             "back, at the latest when the daemon starts again.\n\n"
             "An image that refers to other files (a backing file, an external data file or "
             "extents) is "
             "refused, because an image from a stranger could name any file of this machine.",
     .min_args = 2,
     .max_args = 2,
     .options = {{"format", "FORMAT",
                  "The format of FILE: " IMAGE_FORMATS
                  ". Detected if not given; a file that begins like no "
                  "image is taken as raw, with a message unless its name ends in .raw.",
                  'f'},
                 {"allow-backing", NULL, "Follow references of the image to other files."}},
     .examples = {"varve import debian-12.qcow2 web1",
                  "varve import data.raw web1/data --format raw"},
     .run = cmd_import},
    {.name = "export",
     .arguments = "VM[/DISK][@VERSION] FILE",
     .summary = "Write a disk into a disk image",
     .text = "Write a disk, or what it was in a version, into the new disk image FILE. The format "
             "is that of the file's ending "
             "(.qcow2, "
             ".vmdk, .vhdx, .vdi), raw for any other. Holes stay holes. FILE appears when it is "
             "complete and on its disk.",
     .min_args = 2,
     .max_args = 2,
     .options = {{"format", "FORMAT", "The format of FILE: " IMAGE_FORMATS ".", 'f'},
                 {"force", NULL, "Replace FILE if it exists."}},
     .examples = {"varve export web1 web1.qcow2",
                  "varve export web1/data@nightly /backup/data.img"},
     .run = cmd_export},
    {.name = "ls",
     .arguments = "[VM]",
     .summary = "List the vms, or the versions of one",
     .text =
         "List all vms, or the versions of the vm that is named, by age. Sizes are in powers "
         "of 1024.\n\n"
         "USED is what a version shows, and of one with RAM its memory, compressed; EXCLUSIVE is "
         "the part of it that nothing else shows, "
         "which is what its removal alone frees; SHARED is the rest. MEMORY is how much of "
         "USED is memory; varve show has that of the others, too. The daemon looks for what "
         "is exclusive for a moment only: what it did not find out is shown as -, and is null "
         "in JSON.\n\n"
         "CONSISTENCY is what a version can be trusted to hold. Varve itself takes crash (what a "
         "power cut leaves), filesystem (the guest's agent had frozen its file systems: varve snap "
         "--quiesce) and ram (with the machine's memory: varve checkpoint); application comes only "
         "with a stream that was received.",
     .max_args = 1,
     .options = {{"versions", NULL, "List versions: of all vms, if none is named."},
                 {"unmeasured", NULL, "Do not look for what is exclusive: quicker, for scripts."},
                 {"tree", NULL,
                  "Show what came from what, over all vms, versions and clones. A line of "
                  "descent stands one under the other; what branches off is indented."}},
     .examples = {"varve ls", "varve ls web1", "varve ls --tree", "varve --json ls --versions"},
     .run = cmd_ls},
    {.name = "show",
     .arguments = "VM[@VERSION]",
     .summary = "Show a vm or a version, and its disks",
     .text = "Show what is known of a vm, or of a version.",
     .min_args = 1,
     .max_args = 1,
     .examples = {"varve show web1", "varve show web1@before"},
     .run = cmd_show},
    {.name = "rename",
     .arguments = "VM[@VERSION] NEW",
     .summary = "Give a vm or a version another name",
     .text = "Give a vm another name. Clients that are connected stay connected; new ones find it "
             "under the new name, and so must those that connect again: a guest that runs does not "
             "find its disks after a restart of the daemon. No other vm gets the old name while "
             "such a client is connected, for it would come to that one's disk. After a restart of "
             "the daemon nothing is known of them, and the name is free: restart such machines "
             "under the new name before.\n\n"
             "A version gets the name NEW, which may be written as VM@NEW too.",
     .min_args = 2,
     .max_args = 2,
     .examples = {"varve rename web1 www", "varve rename web1@before web1@before-upgrade"},
     .run = cmd_rename},
    {.name = "rm",
     .arguments = "NAME...",
     .summary = "Remove vms and versions",
     .text =
         "Remove what is named: a vm, which goes with all its disks and versions; a version VM@V; "
         "or "
         "versions VM@A..C from A to C in the order of age, both included, where an end may be "
         "left out "
         "(VM@..C, VM@A.., VM@..). What was cloned from them lives on.\n\n"
         "It returns at once, and the space comes back in the background: varve df shows what is "
         "pending. Refused while a client uses one of a vm's disks, and while a version is held "
         "(varve release), or a stream that comes in goes on from it: then all of a vm's versions "
         "that are named stay, of up to 4,096. Asks first at a "
         "terminal, "
         "and wants --yes elsewhere.",
     .min_args = 1,
     .max_args = INT_MAX,
     .options = {{"dry-run", NULL,
                  "Remove nothing; say what would be, and how much it would free. Refused where "
                  "the removal would be.",
                  'n'}},
     .examples = {"varve rm web1", "varve rm --yes web1@before web2@before",
                  "varve rm --dry-run web1@monday..friday"},
     .run = cmd_rm},
    {.name = "snap",
     .arguments = "VM[@VERSION]",
     .summary = "Take a version of a vm",
     .text =
         "Take a version: the state of all disks of the vm at one instant, while it runs. It costs "
         "nothing to keep but what is written afterwards, and nothing to read. When the command "
         "returns it is durable; it prints the version's name. Without a name it is the time, in "
         "UTC: "
         "VM@2026-11-20T18-05-09Z, with -2, -3 and so on behind it when that is taken.\n\n"
         "Names have up to 64 letters, digits, '.', '_' and '-', and no two dots in a row.",
     .min_args = 1,
     .max_args = 1,
     .options =
         {{"note", "TEXT", "Keep a note with it, of up to 1024 bytes on one line.", 'm'},
          {"quiesce", "MODE",
           "Whether the guest's file systems are frozen meanwhile, by qemu-guest-agent in the "
           "guest: off (the default; the version is what a crash would leave, which file "
           "systems and databases recover from), require (frozen, or no version), auto "
           "(frozen if that works, else a warning)."},
          {"timeout", "SECONDS",
           "How long the freezing may take, and how long the guest may then stay frozen: 1 to "
           "60, by default 10. Whatever happens, it is thawed."},
          {"agent", "SOCKET",
           "The Unix socket of the guest's agent, for a machine that was not started by varve "
           "run, or under another name than the vm's."}},
     .examples = {"varve snap web1", "varve snap web1@before --note 'before the upgrade'",
                  "varve snap web1@nightly --quiesce require"},
     .run = cmd_snap},
    {.name = "hold",
     .arguments = "VM@VERSION...",
     .summary = "Keep versions from being removed",
     .text = "Hold versions: they cannot be removed, nor can their vm, until they are released.",
     .min_args = 1,
     .max_args = INT_MAX,
     .examples = {"varve hold web1@before"},
     .run = cmd_hold},
    {.name = "release",
     .arguments = "VM@VERSION...",
     .summary = "Let versions go that are held",
     .text = "Release versions that were held: they can be removed again.",
     .min_args = 1,
     .max_args = INT_MAX,
     .examples = {"varve release web1@before"},
     .run = cmd_release},
    {.name = "rollback",
     .arguments = "VM@VERSION",
     .summary = "Make a vm what it was in a version",
     .text = "Make the vm's disks, their sizes and their list what they were in the version, in "
             "constant "
             "time. What is replaced is kept as a version, before-rollback- and the time, whose "
             "name is "
             "printed. All other versions stay, younger ones too.",
     .min_args = 1,
     .max_args = 1,
     .options =
         {{"force", NULL,
           "Disconnect the NBD clients of the vm's disks first. QEMU comes back by itself "
           "(reconnect-delay); a machine that ran meanwhile must be reset, and before its next "
           "checkpoint, for what it has in memory is not of these disks any more. Refused while "
           "a checkpoint is taken or a version is being restored."},
          {"keep", "NAME", "The name of the version that keeps what is replaced."},
          {"discard", NULL,
           "Do not keep what is replaced. Asks first at a terminal, and wants --yes elsewhere."}},
     .examples = {"varve rollback web1@before", "varve rollback web1@before --keep broken"},
     .run = cmd_rollback},
    {.name = "clone",
     .arguments = "VM[@VERSION] NEW",
     .summary = "Make a vm from a version",
     .text = "Make the vm NEW, whose disks begin as those of the version, in constant time. It is "
             "writable "
             "at once and as fast as any other; both live on whatever is removed. Without a "
             "version the "
             "vm's present state becomes one first.",
     .min_args = 2,
     .max_args = 2,
     .examples = {"varve clone web1@before web2", "varve clone web1 test"},
     .run = cmd_clone},
    {.name = "diff",
     .arguments = "VM@VERSION VM[@VERSION]",
     .summary = "Show what differs between two versions",
     .text =
         "Show for each disk how much differs from the first version to the second, or to what "
         "the vm holds now: pages with other data (DATA), pages that read as zeros now (ZERO) "
         "and pages where nothing is now (DISCARDED). It takes as long as there are differences, "
         "however large the disks are. The second may be of another vm with the same origin, "
         "such as a clone. Where both have RAM, the memory of the machine is compared too, block "
         "by "
         "block as QEMU names them (memory:ram).\n\n"
         "With --json all extents are printed: offset and length in bytes, as numbers, and type "
         "(data, zero, discarded). A disk that was added, or replaced by another one of its name, "
         "is compared with nothing. memory says where there is RAM (both, added, removed, none, or "
         "unknown for a vm as it is now), and memory_blocks has QEMU's blocks with their extents. "
         "The same is there over NBD, as the context "
         "varve:diff:VERSION of an export, and as QEMU's dirty bitmaps "
         "have it as varve:changed:VERSION.",
     .min_args = 2,
     .max_args = 2,
     .examples = {"varve diff web1@monday web1@tuesday", "varve --json diff web1@before web1"},
     .run = cmd_diff},
    {.name = "disk add",
     .arguments = "VM/DISK SIZE",
     .summary = "Add an empty disk to a vm",
     .text = "Add an empty disk. SIZE is 10G, 512M, 1T or bytes; a multiple of 512 bytes from 4096 "
             "bytes to 128 PiB.",
     .min_args = 2,
     .max_args = 2,
     .examples = {"varve disk add web1/data 20G"},
     .run = cmd_disk_add},
    {.name = "disk rm",
     .arguments = "VM/DISK",
     .summary = "Remove a disk",
     .text =
         "Remove a disk. Refused while a client uses it. Asks first at a terminal, and wants --yes "
         "elsewhere.",
     .min_args = 1,
     .max_args = 1,
     .examples = {"varve disk rm web1/data"},
     .run = cmd_disk_rm},
    {.name = "disk resize",
     .arguments = "VM/DISK SIZE",
     .summary = "Change the size of a disk",
     .text =
         "Make a disk larger, or smaller, which loses what lies beyond and is asked for first. An "
         "NBD client sees the new size when it connects anew.",
     .min_args = 2,
     .max_args = 2,
     .examples = {"varve disk resize web1/root 20G"},
     .run = cmd_disk_resize},
    {.name = "send",
     .arguments = "VM@VERSION",
     .summary = "Write a version as a stream",
     .text =
         "Write a version of a vm, all of its disks, as a stream that varve recv reads: into a "
         "file, or to standard output, which must not be a terminal. With --from only what changed "
         "since that older version is in it. The stream is compressed and carries checksums of all "
         "of it. The machine may run meanwhile; the versions cannot be removed until the stream is "
         "complete.\n\n"
         "A version with RAM is sent with its memory and the state of its machine: whole, or as "
         "the difference, where the older version has RAM too. Varve without memory in its "
         "streams refuses to read such a one.\n\n"
         "FILE appears when it is complete and on its disk. The format is in docs/format-send.md.",
     .min_args = 1,
     .max_args = 1,
     .options = {{"from", "VERSION", "Send the difference to this older version of the same vm."},
                 {"output", "FILE", "Write into FILE, which must not exist, or is a pipe.", 'o'},
                 {"level", "N", "Compression: 1 (fast, the default) to 19 (small), or 0 for none."},
                 {"no-memory", NULL,
                  "Send the disks alone of a version with RAM: it arrives as one that has none."}},
     .examples = {"varve send web1@monday -o web1-monday.varve",
                  "varve send web1@tuesday --from monday | ssh host varve recv"},
     .run = cmd_send},
    {.name = "recv",
     .arguments = "[VM]",
     .summary = "Make a version from a stream",
     .text =
         "Read a stream that varve send wrote, from a file or from standard input. A full stream "
         "becomes a new vm with one version; it has the name that it had where it was sent, or VM. "
         "The difference to an older version becomes the next version of the vm that has that one, "
         "and the vm's disks become what they are in it: so the vm must not be in use, nor have "
         "been changed since. The version keeps its name, its note and what it is known by, so "
         "that "
         "the next difference fits.\n\n"
         "A version with RAM arrives with its memory, and varve restore goes on from it here, "
         "where "
         "the machine's QEMU and the files of its command line are. That command line is part of "
         "the stream: restore only what comes from somebody whom you would let start programs.\n\n"
         "The stream is checked as it comes, and as a whole, before anything is seen of it. One "
         "that is cut or damaged, or does not fit, changes nothing.",
     .max_args = 1,
     .options = {{"input", "FILE", "Read the stream from FILE.", 'i'},
                 {"force", NULL, "Drop what has changed in the vm since the older version."}},
     .examples = {"varve recv -i web1-monday.varve", "varve recv web2 < web1-monday.varve"},
     .run = cmd_recv},
    {.name = "run",
     .arguments = "VM [-- QEMU-ARGUMENT...]",
     .summary = "Start QEMU on a vm",
     .text = "Start QEMU in the background with all disks of the vm over NBD, and print how to "
             "reach it: "
             "its process, its QMP socket and its console (varve console, varve stop). Its files "
             "are in vm/VM in the run "
             "directory. "
             "While the daemon is away the guest waits for it, for five minutes.\n\n"
             "RAM is a shared file on /dev/shm. KVM is used where it works, else TCG, with a "
             "message. What "
             "stands behind -- is given to QEMU as it is.",
     .min_args = 1,
     .max_args = 1,
     .options = {{"memory", "SIZE", "RAM of the guest. Default 1G.", 'm'},
                 {"cpus", "N", "Processors of the guest. Default 1.", 'c'},
                 {"name", "NAME", "Name of the running machine, if not that of the vm."},
                 {"accel", "ACCEL", "kvm, tcg or auto (the default)."},
                 {"forward", "tcp:HOST:GUEST",
                  "Forward a port of this machine's 127.0.0.1 to one of the guest; several are "
                  "separated by commas."},
                 {"kernel", "FILE", "Boot this Linux kernel, instead of the root disk."},
                 {"initrd", "FILE", "With --kernel: the initial RAM disk."},
                 {"append", "TEXT", "With --kernel: the kernel's command line."}},
     .examples = {"varve run web1 -m 2G", "varve run web1 --forward tcp:2222:22",
                  "varve run web1 -- -device virtio-balloon-pci"},
     .run = cmd_run},
    {.name = "attach",
     .arguments = "VM",
     .summary = "Attach a machine that runs",
     .text =
         "Attach a QEMU that somebody else started, while it runs: from then on varve checkpoint "
         "takes versions of it with its memory. Machines of varve run are attached already.\n\n"
         "With --libvirt a domain of libvirt, whose monitor belongs to libvirt: the daemon speaks "
         "with it through libvirt's API, in the libvirt that LIBVIRT_DEFAULT_URI of the daemon's "
         "environment names, else qemu:///system. libvirt then shows the domain as tainted "
         "(custom-monitor), and tells its clients Suspended and Resumed at each checkpoint.\n\n"
         "All its writable disks must be exports VM/DISK of this daemon, its main memory a "
         "shared file on /dev/shm (-object memory-backend-file,share=on,mem-path=/dev/shm; a "
         "domain: memoryBacking with source type='file' and access mode='shared', and "
         "memory_backing_dir = \"/dev/shm\" in libvirt's qemu.conf), and the daemon must be "
         "allowed to trace it. What is missing is said, with the mend. The "
         "machine stands still for some milliseconds, once; nothing stays changed in it but "
         "that its pages are watched. A restarted daemon attaches it again.",
     .min_args = 1,
     .max_args = 1,
     .options =
         {{"qmp", "SOCKET", "A QMP socket of the machine that nobody else is connected to."},
          {"libvirt", "DOMAIN", "The name or UUID of a domain of libvirt, instead."},
          {"disk", "NAME=NODE",
           "The machine's disk with QEMU's node NODE is the vm's disk NAME, where its export "
           "has another name, since the vm was renamed; several are separated by commas."}},
     .examples = {"varve attach web1 --qmp /run/web1/qmp2.sock",
                  "varve attach web1 --libvirt web1"},
     .run = cmd_attach},
    {.name = "detach",
     .arguments = "VM",
     .summary = "Let go of an attached machine",
     .text = "Let go of a machine. It runs on, and its versions stay.",
     .min_args = 1,
     .max_args = 1,
     .examples = {"varve detach web1"},
     .run = cmd_detach},
    {.name = "checkpoint",
     .arguments = "VM[@VERSION]",
     .summary = "Take a version with the memory of the running machine",
     .text =
         "Take a version of the vm and of the machine that runs on it: disks, memory and the state "
         "of its devices at one instant. Memory is copied while the machine runs, and again what "
         "was written meanwhile; then it stands still for some milliseconds. Only what has changed "
         "since the last checkpoint is written. varve show VM@VERSION tells what it took.\n\n"
         "When the command returns the version is durable; it prints its name, as varve snap does. "
         "If anything fails, the machine runs on and there is no version.",
     .min_args = 1,
     .max_args = 1,
     .options = {{"note", "TEXT", "Keep a note with it, as varve snap does.", 'm'},
                 {"max-pause", "MS",
                  "Copy while the machine runs until the pause is likely to be shorter than that, "
                  "or that does not help; 1 to 10000, default 4. A longer pause is taken all the "
                  "same: a message says so, and max_pause_met in JSON."},
                 {"verbose", NULL, "Print what it took, too.", 'v'}},
     .examples = {"varve checkpoint web1@before", "varve checkpoint web1 --max-pause 10"},
     .run = cmd_checkpoint},
    {.name = "restore",
     .arguments = "VM@VERSION",
     .summary = "Start a machine that goes on from a version",
     .text =
         "Start a machine where it was when the version, which has RAM (varve checkpoint), was "
         "taken. With --as it is a new vm, whose disks are clones; without, the vm itself: its "
         "disks go back to the version, what they held is kept as the version before-restore- and "
         "the time, and it is refused while they are in use.\n\n"
         "It runs at once: its memory comes when it is touched, first of all what machines that "
         "were restored from this version touched, and the rest meanwhile. Until all of it is "
         "there it needs the daemon; while that is away the machine waits. With --eager all memory "
         "is there before it runs. The new machine is like one that varve run started (varve "
         "console, varve stop). What cannot be had again, such as open network connections, is "
         "printed.\n\n"
         "With --qmp a QEMU of your own gets the state: started with -incoming defer -S, the same "
         "devices, and disks that are what they are in the version (varve clone). All memory is "
         "brought before it runs.",
     .min_args = 1,
     .max_args = 1,
     .options = {{"as", "NEW", "Make the new vm NEW, whose disks are clones."},
                 {"eager", NULL, "Bring all memory before the machine runs."},
                 {"count", "N",
                  "Start N machines, NEW-1 to NEW-N (VM-1... without --as), each a new vm. What "
                  "they do not change is read once."},
                 {"mac", "new",
                  "Give network devices new addresses; the guest sees them after its next reset."},
                 {"paused", NULL, "Do not let it go on; QMP's cont does, and then it is attached."},
                 {"qmp", "SOCKET", "The monitor of a QEMU that waits; it alone is restored."}},
     .examples = {"varve restore web1@before", "varve restore web1@before --as test",
                  "varve restore web1@booted --as worker --count 8 --mac new",
                  "varve restore web1@before --qmp /run/qemu.sock"},
     .run = cmd_restore},
    {.name = "console",
     .arguments = "NAME",
     .summary = "Connect the terminal to a running machine",
     .text =
         "Connect this terminal to the serial console of a machine that varve run started: NAME "
         "is its --name, or its vm. Ctrl-] leaves the console, and the machine runs on. One "
         "terminal at a time is served; another one waits.",
     .min_args = 1,
     .max_args = 1,
     .examples = {"varve console web1"},
     .run = cmd_console},
    {.name = "stop",
     .arguments = "NAME",
     .summary = "Switch a running machine off",
     .text = "Press the power button of a machine that varve run started, and return: its guest "
             "shuts down if it heeds that. With --force QEMU is ended at once, as when the power "
             "goes.",
     .min_args = 1,
     .max_args = 1,
     .options = {{"force", NULL, "End QEMU at once, and wait for its end."}},
     .examples = {"varve stop web1", "varve stop --force web1"},
     .run = cmd_stop},
    {.name = "stats",
     .arguments = "",
     .summary = "Show what the daemon counts",
     .text = "Show the counters of the store and of the NBD server with their meaning. They start "
             "at zero with the daemon.",
     .examples = {"varve stats"},
     .run = cmd_stats},
    {.name = "df",
     .arguments = "",
     .summary = "Show the space of the store",
     .text = "Show what the store may occupy, what it holds and what may still be written.",
     .examples = {"varve df", "varve --json df"},
     .run = cmd_df},
    {.name = "check",
     .arguments = "",
     .summary = "Check the whole store",
     .text =
         "Read every table and every page of the store, compare their checksums, and compare what "
         "is alive with the books; then read the sealed log files from end to end, for damage "
         "where nothing lives: it costs no data, but tells of the disk. Problems are printed one "
         "a line, and the exit code is 1. The daemon goes on serving meanwhile; with --store a "
         "store without a daemon is checked.\n\n"
         "While the tables and pages are read, space that becomes free is not used again. When the "
         "store runs short of it meanwhile, so that writers, changes or checkpoints wait for log "
         "files, they go on and the check gives up: it says that it ended early, as there is no "
         "space left, and the exit code is 1; what it had not come to is not checked. Make room "
         "(see varve df) or wait until less is written, and check again; or check with --store "
         "while no daemon runs.",
     .options = {{"store", "DIR", "Check the store in DIR, which no daemon has open."},
                 {"tables-only", NULL, "Do not read the pages."}},
     .examples = {"varve check", "varve check --store /var/lib/varve"},
     .run = cmd_check},
    {.name = "version",
     .arguments = "",
     .summary = "Show the versions of the command and the daemon",
     .text = "Show the version of this command and, if one answers, of the daemon.",
     .examples = {"varve version"},
     .run = cmd_version},
    {.name = "help",
     .arguments = "[COMMAND]",
     .summary = "Show help",
     .text = "Show help on a command, or list all commands.",
     .max_args = 2,
     .options = {{"man", NULL, "Print the manual page varve(1) as troff source."},
                 {"completion", "SHELL", "Print completion for a shell: bash."}},
     .examples = {"varve help import"},
     .run = cmd_help},
};
const size_t n_commands = sizeof(commands) / sizeof(commands[0]);

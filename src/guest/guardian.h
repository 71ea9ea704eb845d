/* guardian.h - the process that stands between a frozen guest and its thaw.
 *
 * It alone talks to the guest's agent. It freezes, says so, and thaws when it is told to, when who
 * started it is gone in whatever way, or when the time is over; it does not end before the guest
 * has answered the thaw, or is gone itself, or ten minutes have passed, or twenty seconds after a
 * SIGTERM. A file, which it keeps locked, says meanwhile that a guest is frozen, for the case that
 * the guardian is killed too: who finds it unlocked starts a guardian that does nothing but thaw.
 *
 * The process is started as varved GUARDIAN_ARGUMENT..., with a stream socket as descriptor
 * GUARDIAN_FD. From it come lines, to it goes nothing: its end of file is the word to thaw.
 *
 *     frozen N     N file systems are frozen
 *     failed TEXT  none is, or will not stay so: the end, but for a thaw where it is not known
 *     thawed N     after the end of file: N were frozen until then
 *     expired N    as thawed, but the time was over, or somebody else had thawed before
 */
#ifndef VARVE_GUEST_GUARDIAN_H
#define VARVE_GUEST_GUARDIAN_H

#define GUARDIAN_ARGUMENT "--guardian"
#define GUARDIAN_FD       3

/* argv: [2] "freeze" or "thaw", [3] the agent's socket, [4] milliseconds, for the freezing and then
 * for the time in it, [5] the file. Returns the exit code of the process. */
int guardian_main(int argc, char **argv);

#endif

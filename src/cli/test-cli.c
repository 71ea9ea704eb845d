/* test-cli.c - names, formats, the table of commands. */
#include "cli/cli.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/qemu-img.h"

#include <ctype.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

const struct option_spec global_options[1]; /* main.c has the real ones */
const size_t n_global_options;

const char *option_value(const struct invocation *inv, const char *name)
{
    return NULL;
}

static void splits_names(void **state)
{
    struct disk_name name;

    disk_name_split("web1", &name);
    assert_string_equal(name.vm, "web1");
    assert_string_equal(name.disk, "root");
    assert_false(name.has_disk);
    disk_name_split("web1/data", &name);
    assert_string_equal(name.disk, "data");
    assert_true(name.has_disk);
    disk_name_split("a/b/c", &name); /* the daemon refuses "b/c" */
    assert_string_equal(name.disk, "b/c");
    disk_name_split("/", &name);
    assert_string_equal(name.vm, "");
    assert_string_equal(name.disk, "");
}

/* What is too long stays so, and is no worse UTF-8 than before. */
static void cuts_names_between_characters(void **state)
{
    struct version_name name;
    char text[700] = "a";

    for (size_t i = 0; i < 300; i++)
        strcpy(text + 1 + 2 * i, "\xc3\xbc");
    version_name_split(text, &name);
    assert_int_equal(strlen(name.vm), 255);
    memmove(text, text + 1, sizeof(text) - 1);
    version_name_split(text, &name);
    assert_int_equal(strlen(name.vm), 254);
    assert_memory_equal(name.vm, text, 254);
}

static void knows_formats(void **state)
{
    assert_string_equal(image_format_of_name("a/b.qcow2"), "qcow2");
    assert_string_equal(image_format_of_name("b.vhdx"), "vhdx");
    assert_string_equal(image_format_of_name("a.vdi/b"), "raw");
    assert_string_equal(image_format_of_name("b.img"), "raw");
    assert_null(image_format_check("luks"));
}

static void finds_commands(void **state)
{
    char *words[] = {"disk", "add", "x"};
    int n;

    assert_string_equal(command_find(3, words, &n)->name, "disk add");
    assert_int_equal(n, 2);
    assert_null(command_find(1, words, &n));
    assert_string_equal(command_find(1, (char *[]){"ls"}, &n)->name, "ls");
}

/* What help, man page and completion are made of is there for each command. */
static void table_is_complete(void **state)
{
    for (size_t i = 0; i < n_commands; i++) {
        const struct command *c = &commands[i];
        assert_non_null(c->run);
        assert_true(isupper((unsigned char)c->summary[0]));
        assert_true(c->summary[strlen(c->summary) - 1] != '.');
        assert_true(strlen(c->text) > 20);
        assert_non_null(c->examples[0]);
        assert_true(c->max_args >= c->min_args);
        for (int e = 0; e < 5 && c->examples[e]; e++)
            assert_non_null(strstr(c->examples[e], c->name));
        for (size_t j = i + 1; j < n_commands; j++)
            assert_string_not_equal(c->name, commands[j].name);
    }
}

static void durations(void **state)
{
    char text[24];

    assert_string_equal(duration_format(7, text), "0:07");
    assert_string_equal(duration_format(187, text), "3:07");
    assert_string_equal(duration_format(7387, text), "2:03:07");
}

/* Somebody who is impatient: an interrupt when the child is up, and one when it has had that. */
static void interrupt_twice(void *arg, const char *text, size_t len)
{
    unsigned *told = arg;

    if (++*told <= 2)
        raise(SIGINT);
}

static void passes_each_interrupt_on(void **state)
{
    char *const argv[] = {
        "sh", "-c",
        "n=0; trap 'n=$((n + 1)); echo got; [ $n -lt 2 ] || exit 3' TERM; echo up; "
        "for i in $(seq 200); do sleep 0.05; done",
        NULL};
    struct process_result result;
    unsigned told = 0;

    interrupt_catch();
    assert_int_equal(process_run(argv, interrupt_twice, &told, &result), 0);
    assert_true(interrupted() && result.interrupted);
    assert_int_equal(result.exit_code, 3);
}

/* One that came before the child is passed on to it, too, and none is lost on the way. */
static void an_interrupt_comes_through(void **state)
{
    char *const argv[] = {"sleep", "60", NULL};
    struct process_result result;

    assert_true(interrupted()); /* by the test before */
    for (int i = 0; i < 20; i++) {
        assert_int_equal(process_run(argv, NULL, NULL, &result), 0);
        assert_int_equal(result.exit_code, -1);
        assert_true(result.interrupted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_names),
        cmocka_unit_test(cuts_names_between_characters),
        cmocka_unit_test(knows_formats),
        cmocka_unit_test(finds_commands),
        cmocka_unit_test(table_is_complete),
        cmocka_unit_test(durations),
        cmocka_unit_test(passes_each_interrupt_on),
        cmocka_unit_test(an_interrupt_comes_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

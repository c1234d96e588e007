/* What a test asks of a container that may have nothing else in it: probe cat|env NAME|exit N|id|tty|write PATH */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    const char *more = argc > 2 ? argv[2] : "";
    if (!strcmp(what, "cat")) {
        char data[4096];
        ssize_t count;
        while ((count = read(0, data, sizeof data)) > 0)
            if (write(1, data, count) != count) return 1;
        return 0;
    }
    if (!strcmp(what, "exit")) return atoi(more);
    if (!strcmp(what, "env")) return printf("%s\n", getenv(more) ? getenv(more) : "(unset)") < 0;
    if (!strcmp(what, "id")) return printf("%d:%d\n", (int)getuid(), (int)getgid()) < 0;
    if (!strcmp(what, "tty")) {
        struct winsize size;
        if (!isatty(0) || ioctl(0, TIOCGWINSZ, &size)) return 1;
        return printf("%d %d %s\n", size.ws_row, size.ws_col, getenv("TERM")) < 0;
    }
    if (!strcmp(what, "write")) {
        int file = open(more, O_CREAT | O_WRONLY, 0600);
        return printf("%s\n", file < 0 ? "refused" : "written") < 0;
    }
    return 2;
}

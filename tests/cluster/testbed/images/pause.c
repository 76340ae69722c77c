/* The first process of a pod: holds the pod's namespaces, buries orphans, ends when told to. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    sigset_t awaited;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    sigaddset(&awaited, SIGINT);
    sigaddset(&awaited, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &awaited, 0) != 0) return 1;
    for (;;) {
        int number = sigwaitinfo(&awaited, 0);
        if (number == SIGINT || number == SIGTERM) return 0;
        if (number < 0 && errno != EINTR) return 1;
        while (waitpid(-1, 0, WNOHANG) > 0) {}
    }
}

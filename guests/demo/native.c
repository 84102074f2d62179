/* The demo's workloads on the host's own processor: one line each, as the guest prints it. */
#include <stdio.h>
#include "workloads.h"

int main(void) {
  for (int i = 0; i < workload_count; i++) printf("%s: %016llx\n", workloads[i].name, workloads[i].run());
  return 0;
}

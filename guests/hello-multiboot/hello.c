/*
 * The smallest guest that shows something: a Multiboot 1 kernel in 32-bit protected mode without paging. It tells what
 * the loader gave it, and leaves with the code of `exit=N` on its command line.
 */
#include "../lib/console.h"

/* Multiboot Specification 0.6.96, 3.3 "Boot information format". */
struct multiboot_info {
  u32 flags, mem_lower, mem_upper, boot_device, command_line, modules_count, modules;
};
enum { HAS_MEMORY = 1, HAS_COMMAND_LINE = 4, HAS_MODULES = 8, LOADER_MAGIC = 0x2badb002 };

/* The number behind the last `exit=`. */
static u32 exit_code(const char *line) {
  u32 code = 0;
  for (; *line; line++) {
    if (line[0] == 'e' && line[1] == 'x' && line[2] == 'i' && line[3] == 't' && line[4] == '=') {
      code = 0;
      for (line += 5; *line >= '0' && *line <= '9'; line++) code = code * 10 + (*line - '0');
      line--;
    }
  }
  return code;
}

_Noreturn void hello(u32 magic, const struct multiboot_info *info) {
  console_start();
  if (magic != LOADER_MAGIC) {
    put("hello: EAX is ");
    put_hex(magic, 8);
    put(", not the Multiboot loader's magic\n");
    leave(1);
  }
  put("hello from a Multiboot kernel\n");
  if (info->flags & HAS_MEMORY) {
    /* 639 or 640 KiB below 1 MiB, as the loader counts the EBDA; the rest as the machine was given. */
    put("memory: ");
    put(info->mem_lower >= 512 && info->mem_lower <= 640 ? "conventional, " : "strange, ");
    put(info->mem_upper >= 1024 ? "more than 1 MiB above 1 MiB\n" : "less than 1 MiB above 1 MiB\n");
  }
  if (info->flags & HAS_MODULES && info->modules_count) {
    put("modules: ");
    put_decimal(info->modules_count);
    put("\n");
  }
  leave(info->flags & HAS_COMMAND_LINE ? exit_code((const char *)info->command_line) : 0);
}

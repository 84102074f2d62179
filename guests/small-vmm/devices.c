/**
 * The devices that a Linux without PCI looks at: COM1, CMOS, keyboard controller, ACPI's power management ports.
 *
 * Owns    what an IN or OUT means. Interrupt controllers and timers are the kernel's (KVM_CREATE_IRQCHIP).
 * Source  PC16550D datasheet 8 "Registers"; MC146818A datasheet; ACPI 6.5 4.8.3 "Fixed Hardware Registers".
 */
#include "vmm.h"

#define COM1 0x3f8
#define COM1_IRQ 4
#define CMOS 0x70
#define I8042_COMMAND 0x64
#define PCI_ADDRESS 0xcf8
#define RESET_CONTROL 0xcf9
#define ESCAPE_KEY 0x1d
#define SLP_EN 0x2000
#define INPUT_BYTES 256

#define IER_RECEIVE 1
#define IER_TRANSMIT 2
#define LCR_DLAB 0x80
#define MCR_LOOP 0x10
#define LSR_DATA_READY 0x01
#define LSR_TRANSMITTER_EMPTY 0x60
#define MSR_CTS_DSR_DCD 0xb0

static struct {
  Lock lock;
  int vm;
  u8 ier, lcr, mcr, scratch, divisor[2];
  int transmit_pending, line;
  u8 input[INPUT_BYTES];
  u32 head, tail;
} com1;
static Lock input_room;
static u8 cmos_index, pm1_enable[2];
static u64 started;
static u32 saved_terminal[16];
static int terminal_is_raw;

_Noreturn void guest_ended(const char *how, int status) {
  if (terminal_is_raw) SYS(__NR_ioctl, 0, 0x5402, saved_terminal);
  print_disturbance();
  print("\nsmall-vmm: %s after %u ms\n", how, (now_ns() - started) / 1000000);
  end(status);
}

static int com1_cause(void) {
  if ((com1.ier & IER_RECEIVE) && com1.head != com1.tail) return 0x04;
  if ((com1.ier & IER_TRANSMIT) && com1.transmit_pending) return 0x02;
  return 0x01;
}

static void com1_update(void) {
  int line = com1_cause() != 0x01;
  if (line == com1.line) return;
  com1.line = line;
  struct kvm_irq_level level = {.irq = COM1_IRQ, .level = (u32)line};
  must_ioctl(com1.vm, KVM_IRQ_LINE, &level, "KVM_IRQ_LINE");
}

static void com1_write(u32 reg, u8 value) {
  if (reg < 2 && (com1.lcr & LCR_DLAB)) {
    com1.divisor[reg] = value;
  } else if (reg == 0) {
    if (!(com1.mcr & MCR_LOOP)) SYS(__NR_write, 1, &value, 1);
    com1.transmit_pending = 1;
  } else if (reg == 1) {
    if (!(com1.ier & IER_TRANSMIT) && (value & IER_TRANSMIT)) com1.transmit_pending = 1;
    com1.ier = value & 0xf;
  } else if (reg == 3) {
    com1.lcr = value;
  } else if (reg == 4) {
    com1.mcr = value & 0x1f;
  } else if (reg == 7) {
    com1.scratch = value;
  }
}

static u8 com1_read(u32 reg) {
  if (reg < 2 && (com1.lcr & LCR_DLAB)) return com1.divisor[reg];
  switch (reg) {
    case 0:
      if (com1.head == com1.tail) return 0;
      unlock(&input_room);
      return com1.input[com1.tail++ % INPUT_BYTES];
    case 1: return com1.ier;
    case 2: {
      int cause = com1_cause();
      if (cause == 0x02) com1.transmit_pending = 0;
      return (u8)(0xc0 | cause);
    }
    case 3: return com1.lcr;
    case 4: return com1.mcr;
    case 5: return LSR_TRANSMITTER_EMPTY | (com1.head != com1.tail ? LSR_DATA_READY : 0);
    case 6: {
      u8 m = com1.mcr; /* in loop mode: RTS, DTR, OUT1, OUT2 come back as CTS, DSR, RI, DCD */
      if (!(m & MCR_LOOP)) return MSR_CTS_DSR_DCD;
      return (u8)((m & 2) << 3 | (m & 1) << 5 | (m & 4) << 4 | (m & 8) << 4);
    }
    default: return com1.scratch;
  }
}

/** Thread: stdin becomes COM1's input. */
static void read_input(void *unused) {
  (void)unused;
  u8 byte;
  while (SYS(__NR_read, 0, &byte, 1) == 1) {
    if (terminal_is_raw && byte == ESCAPE_KEY) guest_ended("ended by Ctrl-]", 0);
    for (;;) {
      lock(&com1.lock);
      if (com1.head - com1.tail < INPUT_BYTES) break;
      unlock(&com1.lock);
      lock(&input_room); /* released by whoever reads a byte */
    }
    com1.input[com1.head++ % INPUT_BYTES] = byte;
    com1_update();
    unlock(&com1.lock);
  }
  for (;;) SYS(__NR_pause);
}

static u8 bcd(u64 value) { return (u8)(value / 10 << 4 | value % 10); }

static u8 cmos_read(void) {
  u64 seconds = seconds_since_1970(), days = seconds / 86400;
  /* Civil date from days: the year starts in March, so that the leap day is its last. */
  u64 z = days + 719468, era = z / 146097, of_era = z % 146097;
  u64 year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  u64 day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  u64 shifted = (5 * day_of_year + 2) / 153, day = day_of_year - (153 * shifted + 2) / 5 + 1;
  u64 month = shifted < 10 ? shifted + 3 : shifted - 9, year = year_of_era + era * 400 + (month <= 2);
  switch (cmos_index) {
    case 0x00: return bcd(seconds % 60);
    case 0x02: return bcd(seconds / 60 % 60);
    case 0x04: return bcd(seconds / 3600 % 24);
    case 0x06: return (u8)((days + 4) % 7 + 1);
    case 0x07: return bcd(day);
    case 0x08: return bcd(month);
    case 0x09: return bcd(year % 100);
    case 0x0a: return 0x26; /* divider on */
    case 0x0b: return 0x02; /* 24 hours, BCD */
    case 0x0d: return 0x80; /* battery is good */
    case 0x32: return bcd(year / 100);
    default: return 0;
  }
}

static void write_byte(u32 port, u8 value) {
  if (port >= COM1 && port < COM1 + 8) {
    com1_write(port - COM1, value);
    com1_update();
  } else if (port == CMOS) {
    cmos_index = value & 0x7f;
  } else if ((port == I8042_COMMAND && value == 0xfe) || (port == RESET_CONTROL && (value & 4))) {
    guest_ended("reset", 3);
  } else if (port == PM1_EVENT_PORT + 2 || port == PM1_EVENT_PORT + 3) {
    pm1_enable[port & 1] = value;
  } else if (port == PM1_CONTROL_PORT + 1 && (value & SLP_EN >> 8)) {
    guest_ended("power-off", 0);
  }
}

static u8 read_byte(u32 port) {
  if (port >= COM1 && port < COM1 + 8) {
    u8 value = com1_read(port - COM1);
    com1_update();
    return value;
  }
  if (port == CMOS + 1) return cmos_read();
  if (port == I8042_COMMAND) return 0;
  if (port == PM1_EVENT_PORT + 2 || port == PM1_EVENT_PORT + 3) return pm1_enable[port & 1];
  if (port == PM1_CONTROL_PORT) return 1; /* SCI_EN */
  if (port >= PM1_EVENT_PORT && port < PM1_CONTROL_PORT + 2) return 0;
  return 0xff; /* nobody answers; PCI's configuration ports too, so there is no PCI */
}

void port_access(Vcpu *vcpu) {
  struct kvm_run *run = vcpu->run;
  u8 *data = (u8 *)run + run->io.data_offset;
  lock(&com1.lock);
  for (u32 i = 0; i < run->io.count; i++)
    for (u32 byte = 0; byte < run->io.size; byte++, data++) {
      if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == PCI_ADDRESS) continue; /* its bytes are no registers */
      if (run->io.direction == KVM_EXIT_IO_OUT) write_byte(run->io.port + byte, *data);
      else *data = read_byte(run->io.port + byte);
    }
  unlock(&com1.lock);
}

void devices_start(Vm *vm) {
  com1.vm = vm->vm;
  started = now_ns();
  u32 raw[16];
  if (SYS(__NR_ioctl, 0, 0x5401, saved_terminal) == 0) { /* TCGETS: c_iflag, c_oflag, c_cflag, c_lflag */
    memcpy(raw, saved_terminal, sizeof raw);
    raw[0] &= ~(02u | 040u | 0100u | 0200u | 0400u | 02000u); /* BRKINT ISTRIP INLCR IGNCR ICRNL IXON */
    raw[1] &= ~1u;                                            /* OPOST */
    raw[3] &= ~(1u | 2u | 010u | 0100000u);                   /* ISIG ICANON ECHO IEXTEN */
    terminal_is_raw = SYS(__NR_ioctl, 0, 0x5402, raw) == 0;
  }
  start_thread(read_input, 0);
}

/**
 * What the interrupt controllers ask of the vCPU layer, and what they tell each other. Types only.
 */

/** The vCPU layer, as interrupt controllers see it. Calls may come while any vCPU runs; none of them may be lost. */
export interface CpuSink {
  /** A non-maskable interrupt is pending on `cpu`. */
  nmi(cpu: number): void;
  /** INIT#. When the vCPU takes it (it may be blocked), it calls `LocalApic.init()`. */
  init(cpu: number): void;
  /** Start-up IPI: execution at `vector << 12` if the vCPU waits for it, else nothing. */
  startup(cpu: number, vector: number): void;
  /** `IrqChip.hasInterrupt(cpu)` may have become true. May be called when it has not. */
  wake(cpu: number): void;
}

/** One vCPU's time-stamp counter, as far as the TSC-deadline timer needs it. */
export interface TscSource {
  /**
   * When the counter reaches a value.
   *
   * @param lo,hi  Halves of the 64-bit value, as RDTSC would read it.
   * @returns      Virtual ns at which the counter is first ≥ it; `Clock.nowNs()` if it already is; -1 if that lies
   *               beyond 2^53 ns.
   */
  reachedAtNs(lo: number, hi: number): number;
}

/** What CPUID offers of the APIC. The vCPU's CPUID policy decides it before the first instruction. */
export interface ApicFeatures {
  /** CPUID.1:ECX[21]. */
  readonly x2apic: boolean;
  /** CPUID.1:ECX[24]. */
  readonly tscDeadline: boolean;
  /** Version register bit 24: SVR bit 12 exists. */
  readonly suppressEoiBroadcast: boolean;
  /** CPUID.80000008H:EAX[7:0]; bits of IA32_APIC_BASE above it are reserved. */
  readonly physicalAddressBits: number;
}

/** The other side of a local APIC: messages between the APICs. */
export interface ApicFabric {
  /**
   * An IPI. `icr` holds vector, modes and shorthand as the low half of ICR does.
   *
   * @param wide  `destination` is a 32-bit x2APIC destination, not 8 bits.
   */
  sendIpi(source: number, icr: number, destination: number, wide: boolean): void;
  /** SDM 3A 10.8.5: EOI of a level-triggered vector goes to the I/O APICs. */
  broadcastEoi(vector: number): void;
}

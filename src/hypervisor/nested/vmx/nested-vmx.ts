/**
 * VMX as L0 offers it to the guest of one vCPU: what KVM's nested.c is to KVM.
 *
 * Owns    VMX operation of L1 (VMXON pointer, current VMCS), and whether L1 or L2 runs. The rest is in the files beside:
 *
 *   instructions.ts   VMXON to INVVPID, executed by L1        SDM 3C 30
 *   vm-entry.ts       checks and the way into L2              SDM 3C 26
 *   vm-exit.ts        the way back                            SDM 3C 27
 *   routes.ts         whose exit is it                        SDM 3C 25
 *   events.ts         what is due between two instructions    SDM 3C 25.2, 26.7
 *   controls02.ts     vmcs12's controls as the engine's       nested-mmu.md 4.10
 *
 * Knows   the engine's registers as those of the level that runs: a switch stores them and loads the others.
 * Never   allocates on an entry or an exit.
 *
 * Source  SDM 3C 23 to 30; the order of the MMU's steps is nested-mmu.md 4.10 and 4.13.
 */
import type { CpuidPolicy } from '../../../arch/cpuid.ts';
import { CR0, CR4 } from '../../../arch/registers.ts';
import type { VmxCapabilities } from '../../../arch/vmx/capabilities.ts';
import type { EntryContext, NumberedCheck } from '../../../arch/vmx/checks.ts';
import { PIN, PRIMARY, SECONDARY, VMFUNC } from '../../../arch/vmx/controls.ts';
import { FIELD, FIELD_MASKS, fieldEncoding, fieldKind, VMCS_FIELD_COUNT } from '../../../arch/vmx/fields.ts';
import { assert } from '../../../base/assert.ts';
import { BORN_DOUBLE } from '../../../base/bits.ts';
import type { Timer } from '../../../contracts/clock.ts';
import type { InterceptControls } from '../../../engine/core/cpu.ts';
import { EXIT } from '../../../engine/core/exits.ts';
import { LOADS_VMCS, S, VMCS_MAP, vmcsSlot } from '../../../engine/core/layout.ts';
import type { EngineMemory } from '../../../engine/core/memory.ts';
import type { Processor } from '../../../engine/core/processor.ts';
import { type StateImages, stateImages } from '../../../engine/core/state-image.ts';
import type { VirtualTsc } from '../../irq/virtual-tsc.ts';
import type { NestedPort } from '../../mmu/ports.ts';
import type { NestedLayer } from '../../vcpu/nested-layer.ts';
import type { Vcpu } from '../../vcpu/vcpu.ts';
import type { Vm } from '../../vm/vm.ts';
import {
  apicAccess,
  apicWriteEmulation,
  becomesMemory,
  readAccessPage,
  runsOnAccessPage,
  writeAccessPage,
} from './apic-access.ts';
import * as events from './events.ts';
import { GuestPhysical } from './guest-physical.ts';
import { existingFields, linkedVmcs, rootExit } from './instructions.ts';
import { TscOfL2 } from './l2-tsc.ts';
import { MergedControls } from './merged-controls.ts';
import { l2Exit, wantsMsr } from './routes.ts';
import { TURNS } from './turn-registers.ts';
import { afterRun } from './turns.ts';
import { vmExitForEpt } from './vm-exit.ts';
import { VmcsCache } from './vmcs-cache.ts';
import { cellOf, type Vmcs12 } from './vmcs12.ts';

/**
 * Virtual time that an entry takes, and an exit. A processor needs some hundred cycles; software that compares the
 * preemption timer with the TSC over one round trip relies on it.
 */
export const SWITCH_NS = 200;
/** In `rightsByTag`: the tag has not been in force yet. */
export const UNKNOWN_RIGHTS = -1;
/** Bits of IA32_DEBUGCTL that are not reserved. */
const DEBUGCTL_ALLOWED = 0x3;

export class NestedVmx implements NestedLayer, NestedPort {
  readonly caps: VmxCapabilities;
  readonly policy: CpuidPolicy;
  readonly memory: GuestPhysical;
  /** The active VMCSs of L1. */
  readonly cache: VmcsCache;
  /** The current one, or `cache.none`. */
  v: Vmcs12;
  readonly context: EntryContext;
  readonly fieldExists: Uint8Array;
  readonly images: StateImages;
  /** L0 has a second stage of its own. */
  readonly tdp: boolean;
  readonly #vmcsMap: number;
  readonly tsc = new TscOfL2();
  vcpu!: Vcpu;
  cpu!: Processor;
  /** L1 is in VMX operation. */
  vmxOn = false;
  vmxonPointer = -1;
  /** L2 runs. */
  guestMode = false;
  /** The controls of each level; the one that runs has its object in the engine. */
  l1Intercepts!: InterceptControls;
  /** Of the vmcs12 that L2 runs on, or last ran on. */
  merged = new MergedControls();

  // What vmcs12's controls were when they were merged: read at every exit and every event
  pin = 0;
  primary = 0;
  secondary = 0;

  // Between two instructions of L2
  /** A monitor-trap-flag exit is due when more instructions than this have retired; -1: not armed. */
  mtfAfter = -1;
  mtfPending = false;
  /** Debug exceptions that VM entry found pending: DR6 bits. */
  pendingDebug = 0;
  preemptionTimer!: Timer;
  /** Virtual nanoseconds of one tick of it: 2^n ticks of the TSC. */
  readonly preemptionTickNs: number;
  preemptionExpired = false;
  preemptionDeadlineNs = 0;
  /** A turn has started it, at these counts, and the timer is not armed yet: turns.ts. */
  preemptionIsLate = false;
  preemptionSinceInstructions = BORN_DOUBLE;
  preemptionSinceStallNs = 0;
  /** TPR shadow was found below its threshold. */
  tprBelow = false;
  /** A virtual interrupt is recognized: SDM 3C 29.2.1. */
  hasVirtualInterrupt = false;
  /** Register of the virtual-APIC page that the instruction under way has written, or -1. */
  apicWritten = -1;
  /** INIT came while VMX operation blocks it. */
  initHeld = false;
  /** Registers that decide what TLB entries mean, by TLB tag, as they were when it last ran: see `rightsKey`. */
  readonly rightsByTag = new Int32Array(0x1_0000).fill(UNKNOWN_RIGHTS);
  rightsOfL1 = -1;

  /** For the inspector and the tests. */
  readonly exitsToL1 = new Float64Array(80);
  /** Exits of L2 that L0 kept to itself, by the engine's reason. */
  readonly exitsKept = new Float64Array(0x200);
  entries = 0;
  /** Switches of level that went on inside the engine's run: turns.ts. */
  turns = 0;
  merges = 0;
  lastFailedCheck: NumberedCheck | undefined;

  constructor(vm: Vm, index: number, policy: CpuidPolicy, caps: VmxCapabilities) {
    this.caps = caps;
    this.preemptionTickNs = (2 ** caps.offer.preemptionTimerShift * 1e9) / vm.options.tscHertz;
    this.fieldExists = existingFields(caps);
    this.images = stateImages(vm.engine.memory);
    this.tdp = vm.options.tdp;
    this.policy = policy;
    this.memory = new GuestPhysical(vm.mmu, vm.ram);
    this.#vmcsMap = vm.engine.memory.vmcsMap(index);
    const cells = (block: number): number => vm.engine.memory.vmcsCells(index, block);
    this.cache = new VmcsCache(this.memory, cells, caps.offer.revision);
    this.v = this.cache.none;
    this.#fillVmcsMap(vm.engine.memory);
    const { memory } = this;
    this.context = {
      vmx: caps,
      physicalAddressBits: policy.physicalAddressBits,
      linearAddressBits: policy.linearAddressBits,
      eferAllowed: policy.eferAllowed,
      debugctlAllowed: DEBUGCTL_ALLOWED,
      lma: false,
      currentVmcs: -1,
      readPhysical32: (address) => memory.read32(address),
    };
  }

  /** VMREAD and VMWRITE of the fields that exist; what cannot be written leaves, and fails. */
  #fillVmcsMap({ u16, u32 }: EngineMemory): void {
    const map = this.#vmcsMap;
    for (let row = 0; row < VMCS_FIELD_COUNT; row += 1) {
      if (this.fieldExists[row] === 0) continue;
      const slot = vmcsSlot(fieldEncoding(row));
      const cell = cellOf(row);
      assert(u16[(map + VMCS_MAP.READ + 2 * slot) >>> 1] === 0, 'two fields have two slots');
      u16[(map + VMCS_MAP.READ + 2 * slot) >>> 1] = cell;
      if (this.caps.offer.vmwriteAnyField || fieldKind(row) !== 'exit information') {
        u16[(map + VMCS_MAP.WRITE + 2 * slot) >>> 1] = cell;
      }
      u32[(map + VMCS_MAP.MASK + cell) >>> 2] = FIELD_MASKS[2 * row]!;
      u32[(map + VMCS_MAP.MASK + cell + 4) >>> 2] = FIELD_MASKS[2 * row + 1]!;
    }
  }

  setCurrent(v: Vmcs12): void {
    this.v = v;
    this.openVmcs();
  }

  /** VMPTRLDs and VMCLEARs that did not leave: before L0 asks for the current VMCS, or L1 goes into a guest. */
  follow(): void {
    const { cpu, v } = this;
    const loads = cpu.get(S.VMPTRLDS);
    const clears = cpu.get(S.VMCLEARS);
    if ((loads | clears) === 0) return;
    cpu.set64(S.VMPTRLDS, 0, 0);
    const { exits } = this.vcpu;
    exits[EXIT.VMPTRLD] = exits[EXIT.VMPTRLD]! + loads;
    exits[EXIT.VMCLEAR] = exits[EXIT.VMCLEAR]! + clears;
    const cells = cpu.get(S.VMCS);
    if (cells !== (v.address < 0 ? 0 : v.cells)) this.v = cells === 0 ? this.cache.none : this.cache.at(cells);
  }

  /** VMPTRLD and VMCLEAR may do what L0 would do, unseen. */
  get loadsVmcs(): boolean {
    const { vm } = this.vcpu;
    return !vm.watcher && !vm.debugger && !vm.log && !vm.options.force && vm.mmu.config.keepRootsOnRelease;
  }

  /** Tells the engine what the running level may do without leaving; after each change of level, too. */
  allowTurns(): void {
    let turns: number = TURNS.NONE;
    if (this.vmxOn && !this.guestMode) {
      if (this.loadsVmcs) turns |= LOADS_VMCS;
      if (this.cache.isReady(this.v)) turns |= TURNS.L1_MAY_ENTER;
    }
    this.vcpu.state.setU32(S.TURNS, turns);
  }

  /** Tells the engine which VMCS the running level reads and writes; after each change of level or of the current VMCS. */
  openVmcs(): void {
    const { state } = this.vcpu;
    state.setU32(S.VMCS_MAP, this.#vmcsMap);
    let cells = 0;
    let reads = 0;
    let writes = 0;
    state.setU32(S.MSR_BITMAP, this.guestMode ? this.merged.msrBitmap : 0);
    if (!this.guestMode) {
      if (this.vmxOn && this.v.address >= 0) cells = this.v.cells;
    } else if ((this.secondary & SECONDARY.VMCS_SHADOWING) !== 0) {
      reads = this.memory.offset(this.v.number(FIELD.VMREAD_BITMAP));
      writes = this.memory.offset(this.v.number(FIELD.VMWRITE_BITMAP));
      // In a hole all bits are set: what L0 finds there when it is asked
      if (reads >= 0 && writes >= 0) cells = linkedVmcs(this)?.cells ?? 0;
    }
    this.allowTurns();
    state.setU32(S.VMCS, cells);
    state.setU32(S.VMREAD_BITMAP, reads);
    state.setU32(S.VMWRITE_BITMAP, writes);
  }

  attach(vcpu: Vcpu): void {
    this.vcpu = vcpu;
    this.cache.state = vcpu.state;
    this.cpu = vcpu.engine.processor;
    this.l1Intercepts = vcpu.core.intercepts;
    this.preemptionTimer = vcpu.vm.clock.createTimer(`VMX-preemption timer ${vcpu.index}`, () => {
      this.preemptionExpired = true;
      vcpu.woken = true;
    });
    vcpu.nested = this;
    vcpu.msrs.override = (index) => this.#capabilityMsr(index);
  }

  /** RDMSR of 0x480–0x492: SDM 3D Appendix A. */
  #capabilityMsr(index: number): readonly [number, number] | 'absent' | undefined {
    if (index < 0x480 || index > 0x492) return undefined;
    const value = this.caps.msr(index);
    return value === undefined ? 'absent' : [value[1], value[0]];
  }

  // ---- NestedLayer -------------------------------------------------------------------------------------------------

  exit(reason: number): boolean {
    if (!this.guestMode) return rootExit(this, reason);
    const done = l2Exit(this, reason);
    if (this.guestMode) this.exitsKept[reason] = this.exitsKept[reason]! + 1;
    return done;
  }

  beforeEvents(): boolean {
    return this.guestMode && events.beforeEvents(this);
  }

  get isQuiet(): boolean {
    return events.isQuiet(this);
  }

  afterRun(): void {
    this.follow();
    afterRun(this);
  }

  get instructionLimit(): number {
    return this.guestMode ? events.instructionLimit(this) : Number.POSITIVE_INFINITY;
  }

  get wantsInterruptWindow(): boolean {
    if (!this.guestMode) return false;
    return this.hasVirtualInterrupt || (this.primary & PRIMARY.INTERRUPT_WINDOW_EXITING) !== 0;
  }

  get wantsNmiWindow(): boolean {
    return this.guestMode && (this.primary & PRIMARY.NMI_WINDOW_EXITING) !== 0;
  }

  get interruptsLeave(): boolean {
    return this.guestMode && this.hasPin(PIN.EXTERNAL_INTERRUPT_EXITING);
  }

  get nmisLeave(): boolean {
    return this.guestMode && this.virtualNmis;
  }

  get wakes(): boolean {
    return this.guestMode && events.wakes(this);
  }

  leavesForMsr(index: number, write: boolean): boolean {
    return this.guestMode && wantsMsr(this, index, write);
  }

  takesInit(): boolean {
    return events.takesInit(this);
  }

  takesStartup(vector: number): boolean {
    return this.guestMode && events.takesStartup(this, vector);
  }

  ownsDevicePage(physical: number): boolean {
    const { apicAccess } = this.vcpu.vm.mmu;
    return this.guestMode && apicAccess.size !== 0 && apicAccess.has(Math.floor(physical / 4096));
  }

  deviceExit(physical: number, write: boolean): boolean {
    return this.guestMode && (becomesMemory(this, physical) || apicAccess(this, physical, write));
  }

  runsOnAccessPage(physical: number): boolean {
    return runsOnAccessPage(this, physical);
  }

  mergeAgain(): void {
    this.cache.mergeAgain();
  }

  mmioRead(physical: number, bytes: number): number {
    return readAccessPage(this, physical, bytes);
  }

  mmioWrite(physical: number, bytes: number, value: number): void {
    writeAccessPage(this, physical, bytes, value);
  }

  deviceDone(): void {
    if (this.apicWritten >= 0) apicWriteEmulation(this);
  }

  get cr0OfL1(): number {
    return this.guestMode ? this.v.lo(FIELD.CR0_GUEST_HOST_MASK) : 0;
  }

  get cr0ReadShadow(): number {
    return this.v.lo(FIELD.CR0_READ_SHADOW);
  }

  get cr4OfL1(): number {
    return this.guestMode ? this.v.lo(FIELD.CR4_GUEST_HOST_MASK) : 0;
  }

  get cr4ReadShadow(): number {
    return this.v.lo(FIELD.CR4_READ_SHADOW);
  }

  adjustTsc(tsc: VirtualTsc): void {
    if (this.guestMode) this.tsc.apply(tsc);
  }

  get scalesTsc(): boolean {
    return this.guestMode && this.tsc.isScaled;
  }

  reset(): void {
    this.follow();
    this.initHeld = false;
    this.guestMode = false;
    this.vcpu.core.intercepts = this.l1Intercepts;
    this.leaveVmxOperation();
    this.preemptionTimer.disarm();
    this.mtfAfter = -1;
    this.mtfPending = false;
    this.pendingDebug = 0;
    this.rightsByTag.fill(UNKNOWN_RIGHTS);
  }

  // ---- VMX operation -------------------------------------------------------------------------------------------------

  /** CR0 and CR4 bits that are fixed in VMX operation may not be changed: SDM 3C 23.8 "Restrictions on VMX Operation". */
  enterVmxOperation(pointer: number): void {
    this.vmxOn = true;
    this.vmxonPointer = pointer;
    this.cache.drop();
    this.setCurrent(this.cache.none);
    const l1 = this.l1Intercepts;
    l1.cr0Mask = CR0_FIXED;
    l1.cr0Shadow = CR0_FIXED;
    l1.cr4Mask = CR4.VMXE;
    l1.cr4Shadow = CR4.VMXE;
    this.vcpu.shadowIntercepts();
  }

  /** Would this MOV to CR0 or CR4 of L1 clear a bit that is fixed in VMX operation? CLTS and LMSW cannot. */
  breaksFixedBits(qualification: number): boolean {
    if (!this.vmxOn || ((qualification >>> 4) & 3) !== 0) return false;
    const value = this.vcpu.state.gprLow((qualification >>> 8) & 15);
    const register = qualification & 15;
    if (register === 0) return (~value & CR0_FIXED) !== 0;
    return register === 4 && (value & CR4.VMXE) === 0;
  }

  leaveVmxOperation(): void {
    this.vmxOn = false;
    this.vmxonPointer = -1;
    this.cache.drop();
    this.setCurrent(this.cache.none);
    const l1 = this.l1Intercepts;
    l1.cr0Mask = 0;
    l1.cr4Mask = 0;
    this.vcpu.shadowIntercepts();
    if (this.initHeld) {
      this.initHeld = false;
      this.vcpu.initPending = true;
    }
  }

  // ---- NestedPort ------------------------------------------------------------------------------------------------------

  get usesEpt(): boolean {
    return (this.secondary & SECONDARY.ENABLE_EPT) !== 0;
  }
  get usesMbec(): boolean {
    return (this.secondary & SECONDARY.MODE_BASED_EXECUTE_CONTROL) !== 0;
  }
  get usesVpid(): boolean {
    return (this.secondary & SECONDARY.ENABLE_VPID) !== 0;
  }
  get vpid(): number {
    return this.v.lo(FIELD.VPID);
  }
  get eptPointerLo(): number {
    return this.v.lo(FIELD.EPT_POINTER);
  }
  get eptPointerHi(): number {
    return this.v.hi(FIELD.EPT_POINTER);
  }
  setEptPointer(lo: number, hi: number): void {
    this.v.set(FIELD.EPT_POINTER, lo, hi);
  }
  get eptpSwitching(): boolean {
    return (
      (this.secondary & SECONDARY.ENABLE_VM_FUNCTIONS) !== 0 &&
      (this.v.lo(FIELD.VM_FUNCTION_CONTROLS) & VMFUNC.EPTP_SWITCHING) !== 0
    );
  }
  get eptpListAddress(): number {
    return this.v.number(FIELD.EPTP_LIST_ADDRESS);
  }
  get usesPml(): boolean {
    return (this.secondary & SECONDARY.ENABLE_PML) !== 0;
  }
  get pmlAddress(): number {
    return this.v.number(FIELD.PML_ADDRESS);
  }
  get pmlIndex(): number {
    return this.v.lo(FIELD.PML_INDEX);
  }
  set pmlIndex(value: number) {
    this.v.set(FIELD.PML_INDEX, value & 0xffff);
  }

  exitForEpt(reason: number, qualification: number, physical: number, linearLo: number, linearHi: number): void {
    vmExitForEpt(this, reason, qualification, physical, linearLo, linearHi);
  }

  injectPageFault(errorCode: number, linearLo: number, linearHi: number): void {
    this.vcpu.raisePageFault(errorCode, linearLo, linearHi);
  }

  // ---- shared ----------------------------------------------------------------------------------------------------------

  hasPin(mask: number): boolean {
    return (this.pin & mask) !== 0;
  }

  get virtualNmis(): boolean {
    return (this.pin & PIN.VIRTUAL_NMIS) !== 0;
  }

  /** The linear-address width of the level that runs, which CR4.LA57 decides, is for canonical checks of L1's operands. */
  isCanonical(lo: number, hi: number): boolean {
    return this.cpu.isCanonical(lo, hi);
  }
}

/** CR0 in VMX operation without "unrestricted guest": IA32_VMX_CR0_FIXED0. */
const CR0_FIXED = (CR0.PE | CR0.NE | CR0.PG) >>> 0;

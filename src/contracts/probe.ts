/**
 * A place where something can be watched. With nobody listening, `active` is false and the owner skips the call
 * and the making of its arguments: nothing is paid (DESIGN.md 3.4).
 */
export interface Probe<Event> {
  readonly active: boolean;
  emit(event: Event): void;
}

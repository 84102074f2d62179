/** The Gregorian calendar, proleptic, in UTC. `Date` stays outside: it reads the host's clock too easily. */
export interface CalendarTime {
  year: number;
  /** 1..12 */
  month: number;
  /** 1..31 */
  day: number;
  /** 1..7, Sunday is 1: as the MC146818 counts. */
  weekday: number;
  hour: number;
  minute: number;
  second: number;
}

const SECONDS_PER_DAY = 86_400;

/** Days from 1970-01-01; months beyond 1..12 and days beyond the month's length carry over. */
export function daysFromCivil(year: number, month: number, day: number): number {
  // Years that begin in March put the leap day last; an era of 400 of them always has 146,097 days.
  const shifted = month <= 2 ? year - 1 : year;
  const era = Math.floor(shifted / 400);
  const yearOfEra = shifted - era * 400;
  const dayOfYear = Math.floor((153 * (month > 2 ? month - 3 : month + 9) + 2) / 5) + day - 1;
  const dayOfEra = yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear;
  return era * 146_097 + dayOfEra - 719_468;
}

/** @param seconds  Seconds since 1970-01-01T00:00:00Z; an integer, may be negative. */
export function calendarTime(seconds: number): CalendarTime {
  const days = Math.floor(seconds / SECONDS_PER_DAY);
  const secondOfDay = seconds - days * SECONDS_PER_DAY;
  const shifted = days + 719_468;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const shiftedMonth = Math.floor((5 * dayOfYear + 2) / 153);
  const month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9;
  return {
    year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * shiftedMonth + 2) / 5) + 1,
    weekday: ((((days + 4) % 7) + 7) % 7) + 1, // 1970-01-01 was a Thursday
    hour: Math.floor(secondOfDay / 3600),
    minute: Math.floor(secondOfDay / 60) % 60,
    second: secondOfDay % 60,
  };
}

/** The inverse. Fields out of range carry over, so that a guest's nonsense still is some moment. */
export const secondsSinceEpoch = (time: Omit<CalendarTime, 'weekday'>): number =>
  daysFromCivil(time.year, time.month, time.day) * SECONDS_PER_DAY + time.hour * 3600 + time.minute * 60 + time.second;

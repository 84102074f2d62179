/*
 * Floating point as a C program of Debian has it: printf and libm of glibc, on x87 for long double and on SSE for the rest.
 *
 * Everything here has one right answer: arithmetic, conversions and square roots are correctly rounded, remainders are
 * exact, and of functions that are not (expl, sinl) fewer digits are printed than they are good for. So the test compares
 * what the guest prints with what the host's processor makes of the same binary.
 */
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t state = 88172645463325252u;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

/* Any significand, exponents in a range where results neither vanish nor overflow all the time. */
static long double any(int spread)
{
	long double value = ldexpl((long double)(next() | 1ull << 63), (int)(next() % spread) - spread / 2 - 63);
	return next() & 1 ? -value : value;
}

static uint64_t hash;

static void mix(const void *bytes, int count)
{
	for (int i = 0; i < count; i++)
		hash = (hash ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
}

static void mixl(long double value)
{
	mix(&value, 10);
}

static const struct {
	int mode;
	const char *name;
} modes[] = {
	{ FE_TONEAREST, "nearest" },
	{ FE_DOWNWARD, "down" },
	{ FE_UPWARD, "up" },
	{ FE_TOWARDZERO, "zero" },
};

/* volatile: the compiler must not compute at home. */
static void arithmetic(int mode)
{
	fesetround(modes[mode].mode);
	for (int i = 0; i < 2000; i++) {
		volatile long double a = any(120), b = any(120);
		volatile double c = (double)a, d = (double)b;
		volatile float e = (float)c, f = (float)d;
		mixl(a + b);
		mixl(a - b);
		mixl(a * b);
		mixl(a / b);
		mixl(sqrtl(fabsl(a)));
		mixl(rintl(a));
		mixl(fmodl(a, b));
		mixl(remainderl(a, b));
		volatile double g = c * d + sqrt(fabs(c)) / d;
		volatile float h = e * f + sqrtf(fabsf(e)) / f;
		mix((const void *)&g, 8);
		mix((const void *)&h, 4);
		int64_t whole = llrintl(fmodl(a, 9e18L));
		mix(&whole, 8);
	}
	printf("%-8s %016llx\n", modes[mode].name, (unsigned long long)hash);
	fesetround(FE_TONEAREST);
}

static void flags(const char *name, volatile long double value)
{
	printf("%-10s %La%s%s%s%s%s\n", name, value, fetestexcept(FE_INVALID) ? " invalid" : "",
	       fetestexcept(FE_DIVBYZERO) ? " zero" : "", fetestexcept(FE_OVERFLOW) ? " overflow" : "",
	       fetestexcept(FE_UNDERFLOW) ? " underflow" : "", fetestexcept(FE_INEXACT) ? " inexact" : "");
	feclearexcept(FE_ALL_EXCEPT);
}

int main(void)
{
	volatile long double one = 1, three = 3, tiny = LDBL_MIN, huge = LDBL_MAX, zero = 0;
	printf("%.20Lf %.30Le %La\n", one / three, 2 / three, sqrtl(2 * one));
	printf("%Lf %.0Lf %Lg\n", powl(2, 100), 1e30L, 12345.678901234567890L);
	for (int mode = 0; mode < 4; mode++)
		arithmetic(mode);
	feclearexcept(FE_ALL_EXCEPT);
	flags("1/3", one / three);
	flags("1/0", one / zero);
	flags("0/0", fabsl(zero / zero));
	flags("max*2", huge * 2);
	flags("min/3", tiny / three);
	flags("denormal", tiny / 4);
	flags("sqrt(-1)", fabsl(sqrtl(-one)));
	flags("exact", one + three);
	for (int i = -2; i <= 2; i++) {
		volatile long double x = i * 0.7L;
		printf("%.15Lf %.15Lf %.15Lf %.15Lf\n", expl(x), sinl(x), cosl(x), atanl(x));
		printf("%.15Lf %.15Lf %.15Lf %.15Lf\n", logl(x + 2), exp2l(x), tanl(x), powl(x + 2, 2.5L));
	}
	printf("%La %La %La %La\n", exp2l(-100), log2l(1 / exp2l(77)), expl(zero), sinl(zero));
	double parsed;
	long double parsedl;
	sscanf("0.1 0.1", "%lf %Lf", &parsed, &parsedl);
	printf("%a %La %.17g %.21Lg\n", parsed, parsedl, parsed, parsedl);
	return 0;
}

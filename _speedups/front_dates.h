/* HTTP dates: written as IMF-fixdate, and read in that form only. Twin: relay/http/httpdate.py.
 *
 * Source: RFC 9110, section 5.6.7; days from H. Hinnant, "chrono-Compatible Low-Level Date
 * Algorithms".
 */
#ifndef RELAY_FRONT_DATES_H
#define RELAY_FRONT_DATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FD_BYTES 29                           /* Sun, 06 Nov 1994 08:49:37 GMT */
#define FD_LAST_SECOND UINT64_C(253402300799) /* of the year 9999: four digits say no more */
#define FD_US UINT64_C(1000000)
#define FD_DAY 86400

static const char fd_days[] = "SunMonTueWedThuFriSat";
static const char fd_months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

static inline void fd_two(uint8_t *out, unsigned value)
{
    out[0] = (uint8_t)('0' + value / 10);
    out[1] = (uint8_t)('0' + value % 10);
}

/* Writes FD_BYTES bytes. Later times than the last second of 9999 are written as that. */
static inline void fd_write(uint8_t *out, uint64_t timestamp_us)
{
    uint64_t second = timestamp_us / FD_US;
    if (second > FD_LAST_SECOND)
        second = FD_LAST_SECOND;
    uint32_t days = (uint32_t)(second / FD_DAY), rest = (uint32_t)(second % FD_DAY);
    /* Years begin in March here, so that the leap day is a year's last. */
    uint32_t shifted = days + 719468, era = shifted / 146097, of_era = shifted % 146097;
    uint32_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    uint32_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint32_t from_march = (5 * of_year + 2) / 153;
    uint32_t day = of_year - (153 * from_march + 2) / 5 + 1;
    uint32_t month = from_march < 10 ? from_march + 2 : from_march - 10; /* 0: January */
    uint32_t year = era * 400 + year_of_era + (month < 2);
    memcpy(out, "Sun, 06 Nov 1994 08:49:37 GMT", FD_BYTES);
    memcpy(out, fd_days + 3 * ((days + 4) % 7), 3);
    fd_two(out + 5, day);
    memcpy(out + 8, fd_months + 3 * month, 3);
    fd_two(out + 12, year / 100);
    fd_two(out + 14, year % 100);
    fd_two(out + 17, rest / 3600);
    fd_two(out + 20, rest / 60 % 60);
    fd_two(out + 23, rest % 60);
}

static inline bool fd_digits(const uint8_t *text, int count, uint32_t *value)
{
    *value = 0;
    for (int i = 0; i < count; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *value = *value * 10 + (uint32_t)(text[i] - '0');
    }
    return true;
}

/* Reads an IMF-fixdate of a day that exists. False: another form, or no date at all. */
static inline bool fd_read(const uint8_t *text, size_t size, uint64_t *timestamp_us)
{
    uint32_t day, year, hour, minute, second, month = 0;
    if (size != FD_BYTES || !fd_digits(text + 5, 2, &day) || !fd_digits(text + 12, 4, &year) ||
        !fd_digits(text + 17, 2, &hour) || !fd_digits(text + 20, 2, &minute) ||
        !fd_digits(text + 23, 2, &second))
        return false;
    while (month < 12 && memcmp(text + 8, fd_months + 3 * month, 3) != 0)
        month++;
    if (year < 1970 || month == 12 || day == 0 || hour > 23 || minute > 59 || second > 59)
        return false;
    uint32_t shifted_year = year - (month < 2), era = shifted_year / 400;
    uint32_t year_of_era = shifted_year % 400;
    uint32_t of_year = (153 * (month < 2 ? month + 10 : month - 2) + 2) / 5 + day - 1;
    uint32_t of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    uint64_t days = (uint64_t)era * 146097 + of_era - 719468;
    *timestamp_us = (days * FD_DAY + hour * 3600 + minute * 60 + second) * FD_US;
    uint8_t written[FD_BYTES];
    fd_write(written, *timestamp_us); /* a wrong weekday, the 31st of June, a missing blank */
    return memcmp(written, text, FD_BYTES) == 0;
}

#endif

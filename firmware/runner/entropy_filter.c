#include "entropy_filter.h"

float entropy_filter_high(const entropy_filter_t *filter, const entropy_filter_settings_t *settings)
{
    /* A mean of 0 has no ratio to it; nothing but samples that the network is wholly sure of makes one. */
    if (settings->settle == 0 || filter->seen < settings->settle || filter->settled_mean <= 0.0f)
        return settings->high;
    return settings->high * settings->shrink * (filter->mean / filter->settled_mean);
}

bool entropy_filter_takes(entropy_filter_t *filter, const entropy_filter_settings_t *settings, float entropy)
{
    /* Rounding may leave the entropy of what is certain just below 0. */
    if (entropy < 0.0f)
        entropy = 0.0f;
    filter->seen++;
    filter->mean += (entropy - filter->mean) / (float)filter->seen;
    if (filter->seen == settings->settle)
        filter->settled_mean = filter->mean;
    return settings->low <= entropy && entropy < entropy_filter_high(filter, settings);
}

with coverage as (

    select * from {{ ref('stg_coverage_metrics') }}

),

-- The headline figures repeat on every row of a week. Should they ever differ, the week stands here twice and the
-- test of the key fails.
headlines as (

    select distinct
        week,
        as_of,
        is_provisional,
        jsd,
        jsd_raw,
        jsd_raw_traffic,
        band,
        uncovered_share,
        novel_share,
        n_bins,
        taxonomy_id,
        fitted_on,
        n_sampled,
        n_golden,
        weighting,
        is_in_sample,
        window_from,
        window_to,
        window_days
    from coverage

),

uncovered as (

    select
        week,
        count(*) filter (where is_uncovered) as n_uncovered_bins
    from coverage
    group by week

),

final as (

    select
        headlines.*,
        uncovered.n_uncovered_bins,
        headlines.week = min(headlines.week) over (partition by headlines.taxonomy_id) as is_first_of_taxonomy
    from headlines
    inner join uncovered on headlines.week = uncovered.week
    order by headlines.week

)

select * from final

with coverage as (

    select * from {{ ref('stg_coverage_metrics') }}

),

quality as (

    select * from {{ ref('stg_quality_metrics') }}

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
        jsd_low,
        jsd_high,
        jsd_sd,
        jsd_traffic,
        jsd_weighted,
        jsd_raw_weighted,
        floor_mean,
        floor_p95,
        jsd_p_value,
        is_like_random,
        jsd_reason,
        cases_to_settle,
        jsd_source,
        jsd_source_low,
        jsd_source_high,
        uncovered_floor_mean,
        uncovered_floor_p99,
        week_novel_share,
        week_novel_share_low,
        week_novel_share_high,
        novel_calibration,
        is_novelty_risen,
        jsd_previous,
        n_bins_previous,
        n_bins,
        taxonomy_id,
        fitted_on,
        n_sampled,
        n_golden,
        m_eff,
        weighting,
        is_in_sample,
        window_from,
        window_to,
        window_days
    from coverage

),

bin_counts as (

    select
        week,
        count(*) filter (where is_uncovered) as n_uncovered_bins,
        -- A sum, not a count: a week whose blind spots were never looked for has none to report, which is not 0.
        cast(sum(cast(is_blind_spot as integer)) as bigint) as n_blind_spots,
        cast(sum(cast(is_stale as integer)) as bigint) as n_stale_bins
    from coverage
    group by week

),

-- Below, as above: two rows of a grader for one week, or two costs, double the week and fail the test of the key.
whole_window as (

    select * from quality
    where bin_id is null

),

graded_by_signals as (

    select
        week,
        pass_rate
    from whole_window
    where grader = 'signals'

),

graded_by_llm as (

    select
        week,
        pass_rate
    from whole_window
    where grader = 'llm'

),

operations as (

    select distinct
        week,
        latency_p95_ms,
        cost_per_trace_usd
    from whole_window

),

final as (

    select
        headlines.*,
        bin_counts.n_uncovered_bins,
        bin_counts.n_blind_spots,
        bin_counts.n_stale_bins,
        graded_by_signals.pass_rate as pass_rate_signals,
        graded_by_llm.pass_rate as pass_rate_llm,
        operations.latency_p95_ms,
        operations.cost_per_trace_usd,
        headlines.week = min(headlines.week) over (partition by headlines.taxonomy_id) as is_first_of_taxonomy
    from headlines
    inner join bin_counts on headlines.week = bin_counts.week
    left join graded_by_signals on headlines.week = graded_by_signals.week
    left join graded_by_llm on headlines.week = graded_by_llm.week
    left join operations on headlines.week = operations.week
    order by headlines.week

)

select * from final

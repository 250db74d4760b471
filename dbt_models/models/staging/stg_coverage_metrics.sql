with source as (

    select * from {{ source('lake', 'coverage_metrics') }}

),

final as (

    select
        cast(week as date) as week,
        bin as bin_id,
        label as bin_label,
        production_share,
        production_share_traffic,
        n_sampled as bin_n_sampled,
        golden_cases as bin_n_golden,
        golden_share,
        jsd_term,
        density_ratio,
        is_uncovered,
        production_share_low,
        blind_spot_p,
        is_blind_spot,
        newest_case_on,
        as_of,
        is_provisional,
        is_in_sample,
        window_from,
        window_to,
        window_days,
        taxonomy_id,
        fitted_on,
        n_bins,
        weighting,
        week_n_sampled as n_sampled,
        week_n_golden as n_golden,
        m_eff,
        jsd,
        jsd_raw,
        jsd_raw_traffic,
        band,
        uncovered_share,
        novel_share
    from source

)

select * from final

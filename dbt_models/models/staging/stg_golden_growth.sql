with source as (

    select * from {{ source('lake', 'golden_growth') }}

),

final as (

    select
        cast(week as date) as week,
        as_of,
        is_provisional,
        n_cases,
        n_production,
        n_regressions,
        n_added,
        n_added_production,
        n_added_regressions,
        n_became_regressions,
        n_changed,
        n_merged_traces,
        n_retired,
        n_traces,
        n_complaints,
        failures,
        failures_se,
        added_per_1000_traces,
        added_production_per_1000_failures
    from source

)

select * from final

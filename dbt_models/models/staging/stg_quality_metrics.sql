with source as (

    select * from {{ source('lake', 'quality_metrics') }}

),

final as (

    select
        cast(week as date) as week,
        bin as bin_id,
        label as bin_label,
        grader,
        grader_version,
        n_graded,
        n_unscored,
        pass_rate,
        latency_p95_ms,
        cost_per_trace_usd,
        as_of,
        weighting,
        taxonomy_id
    from source

)

select * from final

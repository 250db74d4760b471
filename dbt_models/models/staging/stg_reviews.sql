with source as (

    select * from {{ source('lake', 'reviews') }}

),

final as (

    select
        cast(file as varchar) as review_file,
        trace_id,
        verdict,
        severity,
        duplicate_of,
        reviewer,
        reviewer_kind,
        reviewed_at,
        recorded_at
    from source

)

select * from final

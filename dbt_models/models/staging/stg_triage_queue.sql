with source as (

    select * from {{ source('lake', 'triage_queue') }}

),

final as (

    select
        cast(week as date) as week,
        trace_id,
        session_id,
        turn_index,
        timestamp as occurred_at,
        source,
        reason,
        priority,
        bin as bin_id,
        label as bin_label,
        selected_by,
        queued_on,
        taxonomy_id
    from source

)

select * from final

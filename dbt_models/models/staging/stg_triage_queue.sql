with queue as (

    select * from {{ source('lake', 'triage_queue') }}

),

batch as (

    select * from {{ source('lake', 'error_batch') }}

),

source as (

    select * from queue

    union all by name

    select * from batch

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
        coalesce(queue, 'general') as queue,
        bin as bin_id,
        label as bin_label,
        selected_by,
        label_probability,
        queued_on,
        taxonomy_id
    from source

)

select * from final

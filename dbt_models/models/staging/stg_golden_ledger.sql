with source as (

    select * from {{ source('lake', 'golden_ledger') }}

),

final as (

    select
        cast(file as varchar) as ledger_file,
        case_id,
        version,
        origin,
        created_at,
        effective_on,
        recorded_at,
        is_regression,
        weight as case_weight,
        trace_id,
        session_id,
        occurred_at,
        queued_on,
        queued_for,
        verdict,
        severity,
        reviewed_at,
        merged_trace_ids,
        retired_on,
        retired_because
    from source

)

select * from final

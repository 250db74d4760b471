with queue as (

    select * from {{ ref('stg_triage_queue') }}

),

reviews as (

    select * from {{ ref('stg_reviews') }}

),

ledger as (

    select * from {{ ref('stg_golden_ledger') }}

),

first_queued as (

    select * from queue
    qualify row_number() over (partition by trace_id order by queued_on, week, priority desc, source) = 1

),

answers as (

    select
        trace_id,
        min(reviewed_at) as first_reviewed_at,
        count(*) as n_reviews,
        list_sort(list(distinct verdict)) as verdicts
    from reviews
    group by trace_id

),

case_traces as (

    select
        trace_id,
        case_id,
        version,
        recorded_at,
        effective_on,
        false as is_merged
    from ledger

    union all

    select
        unnest(merged_trace_ids) as trace_id,
        case_id,
        version,
        recorded_at,
        effective_on,
        true as is_merged
    from ledger

),

first_named as (

    select * from case_traces
    qualify row_number() over (partition by trace_id order by recorded_at, is_merged, version, case_id) = 1

),

final as (

    select
        first_queued.trace_id,
        first_queued.week,
        first_queued.occurred_at,
        first_queued.queued_on,
        first_queued.source,
        first_queued.queue,
        first_queued.priority,
        first_queued.bin_id,
        first_queued.bin_label,
        case
            when first_named.is_merged then 'merged'
            when first_named.case_id is not null then 'promoted'
            when answers.trace_id is not null then 'answered'
            else 'open'
        end as status,
        answers.first_reviewed_at,
        coalesce(answers.n_reviews, 0) as n_reviews,
        coalesce(answers.verdicts, []) as verdicts,
        first_named.case_id,
        first_named.is_merged,
        first_named.recorded_at as promoted_at,
        first_named.effective_on,
        first_queued.queued_on - cast(first_queued.occurred_at as date) as days_to_queue,
        {{ days_between('first_queued.occurred_at', 'answers.first_reviewed_at') }} as days_to_review,
        greatest(
            {{ days_between('first_queued.occurred_at', 'first_named.recorded_at') }},
            {{ days_between('first_queued.occurred_at', 'cast(first_named.effective_on as timestamp)') }}
        ) as days_to_gate
    from first_queued
    left join answers on first_queued.trace_id = answers.trace_id
    left join first_named on first_queued.trace_id = first_named.trace_id
    order by first_queued.queued_on, first_queued.trace_id

)

select * from final

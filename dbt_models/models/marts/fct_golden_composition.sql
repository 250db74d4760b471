with assignments as (

    select * from {{ ref('stg_bin_assignments') }}

),

ledger as (

    select * from {{ ref('stg_golden_ledger') }}

),

coverage as (

    select * from {{ ref('stg_coverage_metrics') }}

),

-- The pipeline has already chosen the suite of the week; `day` is when the version that counted became effective.
golden as (

    select
        week,
        week + 6 as as_of,
        bin_id,
        item_id as case_id,
        day as effective_on,
        case_weight
    from assignments
    where side = 'golden'

),

versions as (

    select
        case_id,
        effective_on,
        origin,
        is_regression
    from ledger
    qualify row_number() over (
        partition by case_id, effective_on
        order by version desc, recorded_at desc, ledger_file desc
    ) = 1

),

-- A case that the ledger does not know keeps its row without an origin, and the test of `origin` fails.
cases as (

    select
        golden.*,
        versions.origin,
        versions.is_regression,
        coverage.bin_label
    from golden
    left join versions on golden.case_id = versions.case_id and golden.effective_on = versions.effective_on
    left join coverage on golden.week = coverage.week and golden.bin_id = coverage.bin_id

),

final as (

    select
        week,
        as_of,
        bin_id,
        bin_label,
        origin,
        is_regression,
        count(*) as n_cases,
        sum(case_weight) as case_weight,
        max(effective_on) as newest_effective_on,
        min(effective_on) as oldest_effective_on,
        avg(as_of - effective_on) as mean_age_days
    from cases
    group by all
    order by week, bin_id, origin, is_regression

)

select * from final

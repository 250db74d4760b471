with growth as (

    select * from {{ ref('stg_golden_growth') }}

),

coverage as (

    select * from {{ ref('stg_coverage_metrics') }}

),

-- As in fct_coverage_weekly: should the headline figures of a week ever differ, the test of the key fails.
headlines as (

    select distinct
        week,
        jsd,
        uncovered_share
    from coverage

),

final as (

    select
        growth.*,
        headlines.jsd,
        headlines.uncovered_share
    from growth
    left join headlines on growth.week = headlines.week
    order by growth.week

)

select * from final

with clusters as (

    select * from {{ ref('stg_clusters') }}

),

refits as (

    select * from {{ ref('stg_taxonomy_refits') }}

),

taxonomies as (

    select
        month,
        month as in_force_from,
        false as is_refit,
        * exclude (month)
    from clusters

    union all by name

    select
        cast(date_trunc('month', week) as date) as month,
        week as in_force_from,
        true as is_refit,
        * exclude (week)
    from refits

),

final as (

    select
        month,
        in_force_from,
        is_refit,
        cluster_id,
        taxonomy_id,
        previous_taxonomy_id,
        label,
        label_source,
        terms,
        example,
        n_texts,
        traffic_share,
        is_edge,
        fitted_on,
        is_provisional,
        novel_calibration
    from taxonomies
    order by in_force_from, is_refit, cluster_id

)

select * from final

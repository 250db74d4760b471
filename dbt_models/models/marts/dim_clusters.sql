with clusters as (

    select * from {{ ref('stg_clusters') }}

),

final as (

    select
        month,
        cluster_id,
        taxonomy_id,
        label,
        terms,
        example,
        n_texts,
        traffic_share,
        is_edge,
        fitted_on,
        is_provisional
    from clusters
    order by month, cluster_id

)

select * from final

with source as (

    select * from {{ source('lake', 'clusters') }}

),

final as (

    select
        cast(month as date) as month,
        cluster_id,
        label,
        label_source,
        terms,
        example,
        n_texts,
        traffic_share,
        is_edge,
        taxonomy_id,
        previous_taxonomy_id,
        fitted_on,
        is_provisional,
        method,
        n_clusters,
        n_fit_texts,
        noise_share,
        novel_calibration
    from source

)

select * from final

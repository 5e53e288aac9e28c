"""The page and the JSON of every kind of model. Without a browser, but too long for each run of the suite."""
import pytest
from hypothesis import given, settings

from conftest import loaders_of, ratings_of
from visits import Visitor, app_of

def test_every_kind_of_model_has_a_page(tmp_path):
    "Nobody meets an error page: what a kind has no answer to is said"
    from collab_notes.core import as_model
    from collab_notes.matrix import every_kind
    dls = loaders_of(ratings_of(300), bs=64)
    from collab_notes.vocab import History
    h,bad = History.of(dls),{}
    for name,(o,_) in every_kind(dls, tmp_path).items():
        try: m = as_model(o)
        except TypeError: m = as_model(o, h)   # it knows no ids
        app = app_of(m)
        v,g = Visitor(app),app.site.served[0].guide
        keys = g.keys[1:4]
        for key in keys: v.rate(key, 4)
        seen = [v.get(p).status_code for p in ('/', f'/item/{keys[0]}', f'/why/{g.keys[9]}', f'/people?id={m.classes[m.user_name][1]}', '/?q=i1', '/?circle=any')]
        mine = {g.texts[g.row_of[k]]:4 for k in keys}
        asked = dict(recommend=dict(ratings=mine), predict=dict(ratings=mine, items=['i9']), similar=dict(item='i1'), why=dict(ratings=mine, item='i9'))
        asked |= {'new-user':dict(ratings=mine), 'recommend?':dict(user=int(m.classes[m.user_name][1]))}
        api = {k:v.http.post(f"/api/{k.strip('?')}", json=b).status_code for k,b in asked.items()}
        if set(seen)!={200} or len(v.rated())!=3 or not set(api.values())<={200,422}: bad[name] = seen,api,v.rated()
        if {api[k] for k in ('recommend','predict','new-user')}!={200}: bad[name] = seen,api
    assert bad=={}

def test_json_is_as_described():
    "Schemathesis makes requests of the description, good ones and bad ones, and compares the answers with it"
    schemathesis = pytest.importorskip('schemathesis')
    from collab_notes.quick import fit_quick
    app = app_of(fit_quick(loaders_of(ratings_of(300))))
    from hypothesis import HealthCheck, Phase
    from schemathesis.specs.openapi.checks import positive_data_acceptance   # a rating off the scale is as described, and yet an error
    schema = schemathesis.openapi.from_asgi('/api/openapi.json', app, headers={'host':'localhost'})
    for result in schema.get_all_operations():
        op = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            if op.method=='get' and mode==schemathesis.GenerationMode.NEGATIVE: continue   # without a body there is no bad one
            cases = op.as_strategy(generation_mode=mode)
            @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
            @given(cases)
            def one(case): case.call_and_validate(headers={'host':'localhost'}, excluded_checks=[positive_data_acceptance])
            one()

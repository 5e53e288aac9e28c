"Tables that would be read as something else than they say"
import gzip
import pandas as pd, pytest
from hypothesis import given, strategies as st
from collab_notes.errors import *
from collab_notes.tables import read_ratings, read_texts

READERS = dict(read_ratings=read_ratings, read_texts=read_texts)

@st.composite
def ragged(draw):
    "A file, its separator, the number of its first line that has too many or too few fields"
    sep,w = draw(st.sampled_from([',',';','|','\t','::'])),draw(st.sampled_from([3,4]))
    good = lambda n: [str(draw(st.integers(1, 9))) for _ in range(n)]
    head = 'user item rating time'.split()[:w]
    rows = [head] + [good(w) for _ in range(draw(st.integers(0, 5)))]
    bad = len(rows)
    rows.append(good(draw(st.sampled_from([1, w-1, w+1, w+2]))))
    rows += [good(w) for _ in range(draw(st.integers(0, 3)))]
    if draw(st.booleans()): rows[0] = [f'"{o}"' for o in head] if sep!='::' else head
    end = draw(st.sampled_from(['\n','\r\n']))
    return end.join(map(sep.join, rows)) + draw(st.sampled_from(['',end])),sep,bad+1

@pytest.mark.parametrize('reader', READERS)
@given(data=ragged(), packed=st.booleans())
def test_a_ragged_line_is_named_in_every_reader(tmp_path_factory, reader, data, packed):
    text,sep,line = data
    path = tmp_path_factory.getbasetemp()/f'ragged.csv{".gz" if packed else ""}'
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(RatingsError, match=rf'line {line}: \d+ field'): READERS[reader](path)

@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('text', ['user,item,rating\n1,2,3\n\n4,5,6\n\n', 'user,item,rating,\n1,2,3,\n4,5,6,\n',
                                  'user,item,rating\n1,"a,b",3\n4,"c\nd",6\n', 'user,item,rating\r1,2,3\r4,5,6\r', 'user;item;rating\n1;a,b;3\n2;c;4'])
def test_even_tables_are_read(tmp_path, reader, text):
    (p := tmp_path/'r.csv').write_text(text, newline='')
    assert len(READERS[reader](p))==2

@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('head', ['user,item,rating,rating','user,item,item,rating','user,item,rating,x,x','"x","x",user,item,rating'])
def test_two_columns_of_one_name(tmp_path, reader, head):
    (p := tmp_path/'r.csv').write_text(head + '\n' + ','.join('1'*len(head.split(','))) + '\n')
    with pytest.raises(MissingColumnError, match='wo columns|ore than one'): READERS[reader](p)

def test_two_columns_of_one_name_in_a_dataframe():
    df = pd.DataFrame([[1,2,3,4,5]], columns=['user','item','rating','x','x'])
    with pytest.raises(MissingColumnError, match="'x'"): read_ratings(df)

def test_texts_stay_as_they_are_written(tmp_path):
    (p := tmp_path/'r.csv').write_text('item,rating\n007,NA\n1_000,\n')
    assert read_texts(p).values.tolist()==[['007','NA'],['1_000','']]

@pytest.mark.parametrize('content,says', [(b'','empty'), (b'\n\n','empty'), ('item,rating\nCaf\xe9,3\n'.encode('latin-1'),"line 2: byte 0xe9 is not in UTF-8.*encoding='latin-1'"), ('item,rating\nå,1\n'.encode('utf-16-le'),"encoding='utf-16-le'")])
def test_texts_that_are_none(tmp_path, content, says):
    (p := tmp_path/'r.csv').write_bytes(content)
    with pytest.raises(RatingsError, match=says): read_texts(p)

def test_a_large_table_is_checked_across_chunks(tmp_path):
    (p := tmp_path/'r.csv').write_text('user,item,rating\n' + '12345,67890,3\n'*400_000 + '1,2\n')
    with pytest.raises(RatingsError, match='line 400002: 2 fields'): read_ratings(p)

@pytest.mark.parametrize('text', ['A_$1 vs B_$2', '$$', r'$\nosuch$', '$x', r'\frac{1}{'])
def test_text_from_data_is_no_formula(text):
    from matplotlib import pyplot as plt
    from collab_notes.plots import plot_pca
    points = pd.DataFrame({text:['a','b','c'], 'pc1':[0.,1,2], 'pc2':[0.,1,2]})
    ax = plot_pca(points, label=lambda o: text, title=text, hue=dict.fromkeys('abc', text))
    ax.figure.canvas.draw()
    plt.close(ax.figure)
